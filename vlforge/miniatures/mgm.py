"""Mini-Gemini in small: data/MGM-*, model_zoo with Gemma, Vicuna and both encoders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vlforge.miniatures.benchmarks import (
    eval_scenes,
    write_mmbench,
    write_mmvet,
    write_pope,
    write_textvqa,
)
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.llava_data import PLACES
from vlforge.miniatures.parts.clip import write_clip
from vlforge.miniatures.parts.convnext import NAME as CONVNEXT
from vlforge.miniatures.parts.convnext import write_convnext
from vlforge.miniatures.parts.llama import write_gemma, write_vicuna
from vlforge.miniatures.pictures import write_picture
from vlforge.miniatures.rows import captioned, mixed
from vlforge.miniatures.scenes import scene
from vlforge.miniatures.weights import write_json

PRETRAIN_PLACES = (
    "images/{folder}/{name}.jpg",
    "ALLaVA-4V/allava_laion/images/{n}.jpeg",
    "images/{folder}/{name}.jpg",
    "ALLaVA-4V/allava_vflan/images/images_191task_1k/{n}.jpg",
)
"""LLaVA's 558k pairs and ALLaVA's 695k captions, by turns."""
FIRST_MIXED = 50_000
MIXED_PLACES = (
    *PLACES,
    "ALLaVA-4V/allava_laion/images/{n}.jpeg",
    "llava/LLaVA-Pretrain/images/{n:09d}.jpg",
    "sam/images/sa_{n}.jpg",
    "share_textvqa/images/{n:016x}.jpg",
    "web-celebrity/images/{n}.jpg",
    "web-landmark/images/{n}.jpg",
    "wikiart/images/{n}.jpg",
    "gpt4v-dataset/images/{n}.png",
    "docvqa/images/{n}.png",
    "chartqa/train/png/{n}.png",
    "dvqa/images/bar_train_{n:08d}.png",
    "ai2d/images/{n}.png",
)


def write(folder: Path, config: MiniatureConfig) -> None:
    """The whole folder."""
    seed, data, zoo = int(config.seed), folder / "data", folder / "model_zoo"
    _write_pretrain(data / "MGM-Pretrain", seed, config.rows)
    tuned = data / "MGM-Finetune"
    count = max(config.rows, len(MIXED_PLACES))
    rows = mixed(tuned, seed, MIXED_PLACES, count, first=FIRST_MIXED, texts=4)
    write_json(tuned / "mgm_instruction.json", rows)
    asked = data / "MGM-Eval"
    write_textvqa(asked / "textvqa", eval_scenes(seed, 6, has_word=True))
    for picture in sorted((asked / "textvqa/train_images").iterdir()):
        # The recipe reads them where the training pictures of TextVQA lie too.
        shutil.copyfile(picture, tuned / "textvqa/train_images" / picture.name)
    write_mmbench(asked / "MMB/mmbench_dev_20230712.tsv", eval_scenes(seed, 4, skip=500))
    write_pope(asked / "pope", asked / "pope/val2014", eval_scenes(seed, 3, skip=700))
    write_mmvet(asked / "mm-vet", eval_scenes(seed, 3, skip=800))
    write_gemma(zoo / "LLM/gemma/gemma-2b-it", seed)
    write_vicuna(zoo / "LLM/vicuna/7B-V1.5", seed)
    write_clip(zoo / "OpenAI/clip-vit-large-patch14-336", seed)
    write_convnext(zoo / "OpenAI" / CONVNEXT, seed)


def _write_pretrain(folder: Path, seed: int, count: int) -> None:
    """LLaVA's pairs and ALLaVA's long captions in one file."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        one, name = scene(seed, number), f"{number * 4513:09d}"
        place = PRETRAIN_PLACES[number % len(PRETRAIN_PLACES)]
        image = place.format(n=number * 4513, name=name, folder=name[:5])
        text = one.description if image.startswith("ALLaVA") else one.alt_text
        write_picture(folder / image, one)
        rows.append(captioned(one, name, image, text))
    write_json(folder / "mgm_pretrain.json", rows)
