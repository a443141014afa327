"""PaddleMIX's training arguments (`lora_sft_argument.json`): those published, and reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign
from vlforge.recipe.adopt.paddlemix import adopt_foreign
from vlforge.types import RecipeError

CONFIGS = {
    "lora": "config/mgen_vl/lora_sft_argument.json",
    "full": "config/mgen_vl/sft_argument.json",
}
_SHARED: dict[str, Any] = {
    "model_name_or_path": "weights/mgen-vl-chat-7b",
    "freeze_include": ["*visual*"],
    "freeze_exclude": ["*visual.attn_pool*"],
    "dataset": {
        split: [
            {
                "name": "chatml_dataset",
                "data_files": f"data/{file}.json",
                "chat_template": "data/chat_template.json",
            }
        ]
        for split, file in (("train", "train"), ("eval", "val"))
    },
    "mixtoken": False,
    "output_dir": "output/mgen_vl_sft",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "num_train_epochs": 1,
    "learning_rate": 1e-05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "warmup_ratio": 0.01,
    "lr_scheduler_type": "cosine",
    "save_steps": 100,
    "evaluation_strategy": "epoch",
    "max_length": 2048,
    "fp16": True,
    "fp16_opt_level": "O2",
    "do_train": True,
}
_LORA: dict[str, Any] = {
    "lora": True,
    "lora_rank": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": [
        ".*attn.c_attn.*", ".*attn.c_proj.*", ".*mlp.w1.*", ".*mlp.w2.*",
    ],
}  # fmt: skip
TEXTS = {
    "lora": json.dumps(_SHARED | _LORA, indent=2) + "\n",
    "full": json.dumps(_SHARED | {"lora": False}, indent=2) + "\n",
}
"""The published arguments, over all of the data once."""


def read_arguments(path: Path, changes: Mapping[str, str] | None = None) -> AdoptedRecipe:
    """What the arguments in a file, changed by `changes`, amount to here.

    Raises:
        RecipeError: no such file, no JSON, an unknown name, or a value without counterpart.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"{path}: {error.strerror}; vlforge challenge ad-captions init writes it"
        ) from None
    return adopt_foreign(Foreign(path, text, dict(changes or {})))


def training_of(adopted: AdoptedRecipe) -> dict[str, Any]:
    """The settings of the `train` stage."""
    found: dict[str, Any] = adopted.tree["stages"]["tune"]
    return found
