"""MiniGPT-4's configuration files: its keys and published values, paths filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRAIN_PICTURES = {"train": {"name": "blip2_image_train", "image_size": 224}}
EVAL_PICTURES = {"train": {"name": "blip2_image_eval", "image_size": 224}}
TEXTS = {"train": {"name": "blip_caption"}}
FROZEN = {"freeze_vit": True, "freeze_qformer": True}
PROMPTED = {
    "max_txt_len": 160,
    "end_sym": "###",
    "prompt_path": "prompts/alignment.txt",
    "prompt_template": "###Human: {} ###Assistant: ",
}
SECOND_STAGE = PROMPTED | {"ckpt": "weights/prerained_minigpt4_7b.pth"}
ARCH: dict[str, Any] = {"arch": "mini_gpt4", "model_type": "pretrain_vicuna", **FROZEN}
MACHINES = {"device": "cuda", "world_size": 1, "dist_url": "env://", "distributed": True}


def write_configs(folder: Path) -> None:
    """train_configs/, eval_configs/ and the defaults in minigpt4/configs/."""
    defaults = {
        "models/minigpt4.yaml": _model_defaults(),
        "datasets/laion/defaults.yaml": _storage("laion", "laion_dataset/{00000..00001}.tar"),
        "datasets/cc_sbu/defaults.yaml": _storage("cc_sbu", "cc_sbu_dataset/{00000..00001}.tar"),
        "datasets/cc_sbu/align.yaml": _storage("cc_sbu_align", "cc_sbu_align/"),
        "default.yaml": {"env": {"cache_root": "cache"}},
    }
    for name, tree in defaults.items():
        _dump(folder / "minigpt4" / "configs" / name, tree)
    _dump(folder / "train_configs" / "minigpt4_stage1_pretrain.yaml", _first_stage())
    _dump(folder / "train_configs" / "minigpt4_stage2_finetune.yaml", _second_stage())
    demo = {
        "model": ARCH | SECOND_STAGE | {"low_resource": True},
        "datasets": {"cc_sbu_align": _dataset(EVAL_PICTURES)},
        "run": {"task": "image_text_pretrain"},
    }
    _dump(folder / "eval_configs" / "minigpt4_eval.yaml", demo)


def _model_defaults() -> dict[str, Any]:
    pictures = TRAIN_PICTURES | {"eval": EVAL_PICTURES["train"]}
    texts = TEXTS | {"eval": TEXTS["train"]}
    return {
        "model": {
            "arch": "mini_gpt4", "image_size": 224, "drop_path_rate": 0,
            "use_grad_checkpoint": False, "vit_precision": "fp16", **FROZEN,
            "num_query_token": 32, "llama_model": "weights/vicuna-7b", "prompt": "",
        },
        "preprocess": {"vis_processor": pictures, "text_processor": texts},
    }  # fmt: skip


def _storage(name: str, place: str) -> dict[str, Any]:
    return {"datasets": {name: {"data_type": "images", "build_info": {"storage": place}}}}


def _dataset(pictures: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"vis_processor": pictures, "text_processor": TEXTS, **more}


def _first_stage() -> dict[str, Any]:
    return {
        "model": ARCH,
        "datasets": {
            "laion": _dataset(TRAIN_PICTURES, sample_ratio=115),
            "cc_sbu": _dataset(TRAIN_PICTURES, sample_ratio=14),
        },
        "run": _run(
            {"init_lr": 1e-4, "min_lr": 8e-5, "warmup_lr": 1e-6},
            {"max_epoch": 4, "batch_size_train": 64, "batch_size_eval": 64, "num_workers": 4,
             "warmup_steps": 5000, "iters_per_epoch": 5000},
            "output/minigpt4_stage1_pretrain",
        ),
    }  # fmt: skip


def _second_stage() -> dict[str, Any]:
    return {
        "model": ARCH | SECOND_STAGE,
        "datasets": {"cc_sbu_align": _dataset(TRAIN_PICTURES)},
        "run": _run(
            {"init_lr": 3e-5, "min_lr": 1e-5, "warmup_lr": 1e-6},
            {"max_epoch": 5, "iters_per_epoch": 200, "batch_size_train": 12,
             "batch_size_eval": 12, "num_workers": 4, "warmup_steps": 200},
            "output/minigpt4_stage2_finetune",
        ),
    }  # fmt: skip


def _run(rates: dict[str, float], amounts: dict[str, int], output: str) -> dict[str, Any]:
    return {
        "task": "image_text_pretrain", "lr_sched": "linear_warmup_cosine_lr", **rates,
        "weight_decay": 0.05, **amounts, "seed": 42, "output_dir": output, "amp": True,
        "resume_ckpt_path": None, "evaluate": False, "train_splits": ["train"], **MACHINES,
    }  # fmt: skip


def _dump(path: Path, tree: dict[str, Any]) -> None:
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    tree = json.loads(json.dumps(tree))  # or equal parts would be written once and referred to
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
