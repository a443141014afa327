"""The Better Synth kit in small: seed data, solution, toolkit, models, benchmarks.

`kit/` beside this file holds the scripts: the contest's interface and order of steps in
own words, and stand-ins for its training and evaluation code that need no GPU.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from vlforge.miniatures.benchmarks import eval_scenes, write_lines, write_mmbench, write_textvqa
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.parts.blip2 import write_blip2
from vlforge.miniatures.parts.clip import write_clip
from vlforge.miniatures.parts.convnext import NAME as CONVNEXT
from vlforge.miniatures.parts.convnext import write_convnext
from vlforge.miniatures.parts.llama import write_gemma
from vlforge.miniatures.pictures import write_picture
from vlforge.miniatures.rows import captioned, mixed
from vlforge.miniatures.scenes import Scene, scene
from vlforge.miniatures.weights import write_json
from vlforge.types import EOC_TOKEN, IMAGE_TOKEN

KIT = Path(__file__).with_name("kit")
SEED, FIXED = "pretrain_stage_1_10k", "finetuning_stage_1_12k"
ALLAVA_EVERY = 4
"""Of so many seed rows one is ALLaVA's."""
FAULTS = ("doubled", "swapped", "address", "small", "blank")
"""What is wrong with every fourth seed row from the sixth on, by turns: as on the web."""
FINETUNE_SHARE, FIRST_FINETUNE = 1.2, 50_000
"""12k instructions stand beside 10k seed rows."""
_PLACES = (
    "coco/train2017/{n:012d}.jpg",
    "gqa/images/{n}.jpg",
    "textvqa/train_images/{n:016x}.jpg",
    "ocr_vqa/images/{n:010d}.jpg",
    "vg/VG_100K/{n}.jpg",
)


def write(folder: Path, config: MiniatureConfig) -> None:
    """The whole kit."""
    seed = int(config.seed)
    shutil.copytree(KIT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "toolkit/bin/deepspeed").chmod(0o755)  # a wheel may have lost it
    for name in ("output", "submit"):
        (folder / name).mkdir()
    _write_seed(folder / "input" / SEED, seed, config.rows)
    data = folder / "toolkit/training/data"
    count = round(FINETUNE_SHARE * config.rows)
    fixed = mixed(data / FIXED, seed, _PLACES, count, first=FIRST_FINETUNE)
    write_json(data / FIXED / "mgm_instruction_stage_1_12k.json", fixed)
    scenes = eval_scenes(seed, 6, has_word=True)
    write_textvqa(data / "eval_stage_1/textvqa", scenes)
    asked = eval_scenes(seed, 4, skip=500)
    write_mmbench(data / "eval_stage_1/mmbench/mmbench_dev_20230712.tsv", asked)
    zoo = folder / "toolkit/training/model_zoo"
    write_gemma(zoo / "LLM/gemma/gemma-2b-it", seed)
    write_clip(zoo / "OpenAI/clip-vit-large-patch14-336", seed)
    write_convnext(zoo / "OpenAI" / CONVNEXT, seed)
    write_blip2(folder / "models/blip2-opt-2.7b", seed)


def _write_seed(folder: Path, seed: int, count: int) -> None:
    """The seed pictures and texts as Data-Juicer's rows, and the conversations they were."""
    rows: list[dict[str, Any]] = []
    original: list[dict[str, Any]] = []
    for number in range(count):
        one = scene(seed, number)
        if number % ALLAVA_EVERY == ALLAVA_EVERY - 1:
            row_id = f"allava_laion_inst_{number}"
            image, text = f"ALLaVA-4V/allava_laion/images/{number * 7919}.jpeg", one.description
        else:
            row_id = f"{number * 7919:09d}"
            image, text = f"images/{row_id[:5]}/{row_id}.jpg", one.alt_text
        text = _write_pair(folder / image, one, text)
        original.append(captioned(one, row_id, image, text))
        said = f"{IMAGE_TOKEN} {text}\n {EOC_TOKEN}"
        rows.append({"id": row_id, "text": said, "images": [image]})
    write_lines(folder / "mgm_pretrain_stage_1_10k.jsonl", rows)
    write_json(folder / "stage_1.json", original)


def _write_pair(file: Path, one: Scene, text: str) -> str:
    """Write the row's picture; its text. Some pairs are wrong."""
    is_good = one.number < ALLAVA_EVERY or one.number % ALLAVA_EVERY != 1
    fault = "" if is_good else FAULTS[(one.number // ALLAVA_EVERY - 1) % len(FAULTS)]
    if fault == "blank":
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 96), (236, 236, 236)).save(file)
        return text
    shown = scene(one.seed, one.number - 1) if fault == "doubled" else one
    write_picture(file, shown, (14, 14) if fault == "small" else None)
    if fault == "swapped":
        return scene(one.seed, one.number + 2).alt_text
    if fault == "address":
        return f"www.example.com/img_{one.number:04d}.jpg best price buy now"
    return shown.alt_text if fault == "doubled" else text
