"""The ad-captioning contest's folder in small: data, weights, configuration, own source.

train.txt has the contest's three columns; some of its pictures are cut off or no pictures
at all, as in the real data. `src/` stands for a contestant's own Paddle source.
"""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import Any

from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.parts.qwen import write_mgen_vl
from vlforge.miniatures.pictures import draw
from vlforge.miniatures.scenes import Scene, scene
from vlforge.miniatures.weights import write_json

MODEL = "weights/mgen-vl-chat-7b"
PROMPT = "请描述图片内容"
STYLES = ("写实风格，", "插画风格，", "")
"""What captions begin with; some name no style."""
CUT_EVERY = 8
"""Of so many pictures one is cut off."""
TEST_ROWS = 8
_TEST = 20_000
"""Number of the first scene of the test: no picture is in both files."""
NO_PICTURE = "bm8gcGljdHVyZQ=="
TARGETS = [".*attn.c_attn.*", ".*attn.c_proj.*", ".*mlp.w1.*", ".*mlp.w2.*"]
CHAT_TEMPLATE = {
    "conversation": [
        "<|im_start|>user\n{{user}}<|im_end|>\n",
        "<|im_start|>assistant\n{{bot}}<|im_end|>\n",
    ]
}
RUN = """#!/bin/sh
# run.sh INPUT OUTPUT WEIGHTS [PYTHON]: a caption for every line of INPUT.
# WEIGHTS is a folder with config.json, or one that holds exactly one such folder.
set -e
if [ "$#" -lt 3 ]; then
    echo "usage: sh run.sh INPUT OUTPUT WEIGHTS [PYTHON]" >&2
    exit 2
fi
absolute() {
    case "$1" in
        /*) printf '%s\\n' "$1" ;;
        *) printf '%s/%s\\n' "$PWD" "$1" ;;
    esac
}
input=$(absolute "$1")
output=$(absolute "$2")
weights=$(absolute "$3")
python=${4:-python3}
cd "$(dirname "$0")/src"
"$python" predict.py "$input" "$output" "$weights"
"""


def write(folder: Path, config: MiniatureConfig) -> None:
    """The whole folder: data/, weights/, config/mgen_vl/, src/, run.sh, requirements.txt."""
    seed = int(config.seed)
    train = [scene(seed, number) for number in range(config.rows)]
    test = [scene(seed, _TEST + number) for number in range(TEST_ROWS)]
    texts = [caption(one) for one in (*train, *test)] + [PROMPT, "a picture of the word"]
    write_mgen_vl(folder / MODEL, seed, texts)
    (folder / "data").mkdir()
    _write_lines(folder / "data" / "train.txt", _train_lines(train))
    _write_lines(folder / "data" / "test.txt", _test_lines(test))
    settings = folder / "config" / "mgen_vl"
    write_json(settings / "lora_sft_argument.json", lora_arguments())
    write_json(settings / "sft_argument.json", full_arguments())
    write_json(settings / "chat_template.json", CHAT_TEMPLATE)
    _write_source(folder)


def caption(one: Scene) -> str:
    """What the contest's data say of such a picture."""
    return STYLES[one.number % len(STYLES)] + one.chinese


def picture(one: Scene, *, is_cut: bool = False) -> str:
    """The picture as the data hold it: a JPEG in base64; a cut one lacks its last third."""
    content = io.BytesIO()
    draw(one).save(content, "JPEG", quality=90)
    whole = content.getvalue()
    return base64.b64encode(whole[: 2 * len(whole) // 3] if is_cut else whole).decode()


def _train_lines(scenes: list[Scene]) -> list[str]:
    """Good rows, cut-off pictures among them, and two that are no pictures or no row."""
    lines = [
        f"{one.number:08d}\t{picture(one, is_cut=at % CUT_EVERY == CUT_EVERY - 1)}\t{caption(one)}"
        for at, one in enumerate(scenes)
    ]
    return [*lines[:3], f"90000001\t{NO_PICTURE}\t没有图片。", *lines[3:], "90000002"]


def _test_lines(scenes: list[Scene]) -> list[str]:
    """Two columns; the third picture is cut off, the fourth is none."""
    lines = [f"test_{at:04d}\t{picture(one, is_cut=at == 2)}" for at, one in enumerate(scenes)]
    return [*lines[:3], f"test_0003\t{NO_PICTURE}", *lines[4:]]


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def lora_arguments() -> dict[str, Any]:
    """`lora_sft_argument.json`: the sample's values, which end after ten steps."""
    lora = {"lora": True, "lora_rank": 64, "lora_alpha": 16, "lora_dropout": 0.05}
    return (
        _arguments("checkpoints/mgen_vl_lora_sft_ckpts")
        | {"max_steps": 10, "save_steps": 10}
        | lora
        | {"lora_target_modules": TARGETS}
    )


def full_arguments() -> dict[str, Any]:
    """`sft_argument.json`: all weights but the encoder's."""
    return _arguments("checkpoints/mgen_vl_sft_ckpts") | {"lora": False}


def _arguments(output: str) -> dict[str, Any]:
    def files(name: str) -> list[dict[str, str]]:
        template = "data/chat_template.json"
        return [{"name": "chatml_dataset", "data_files": f"data/{name}.json",
                 "chat_template": template}]  # fmt: skip

    return {
        "model_name_or_path": MODEL,
        "freeze_include": ["*visual*"], "freeze_exclude": ["*visual.attn_pool*"],
        "dataset": {"train": files("train"), "eval": files("val")},
        "mixtoken": False, "output_dir": output, "overwrite_output_dir": True,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16,
        "per_device_eval_batch_size": 1, "eval_accumulation_steps": 16, "num_train_epochs": 1,
        "learning_rate": 1e-05, "weight_decay": 0.1, "adam_beta2": 0.95, "warmup_ratio": 0.01,
        "lr_scheduler_type": "cosine", "logging_steps": 1, "save_steps": 1000,
        "evaluation_strategy": "epoch", "save_strategy": "steps", "max_length": 2048,
        "fp16": True, "fp16_opt_level": "O2", "do_train": True, "do_eval": True,
        "disable_tqdm": True, "load_best_model_at_end": False, "eval_with_do_generation": False,
        "skip_memory_metrics": False, "save_total_limit": 1, "tensor_parallel_degree": 1,
        "sharding_parallel_degree": 1, "sharding": "stage2", "pipeline_parallel_degree": 1,
    }  # fmt: skip


def _write_source(folder: Path) -> None:
    """src/predict.py, run.sh and requirements.txt."""
    source = Path(__file__).with_name("ad_source") / "predict.py"
    (folder / "src").mkdir()
    shutil.copyfile(source, folder / "src" / "predict.py")
    (folder / "requirements.txt").write_text("pillow\n", encoding="utf-8")
    (folder / "run.sh").write_text(RUN, encoding="utf-8")
    (folder / "run.sh").chmod(0o755)
