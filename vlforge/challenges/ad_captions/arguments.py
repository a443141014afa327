"""PaddleMIX's training arguments (`lora_sft_argument.json`): what they say, and here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.recipe.nearest import nearest
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
    "max_length": 2048,
    "fp16": True,
    "fp16_opt_level": "O2",
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

_TAKEN: dict[str, type | tuple[type, ...]] = {
    **{name: type(value) for name, value in (_SHARED | _LORA).items()},
    "learning_rate": (int, float), "weight_decay": (int, float), "adam_beta1": (int, float),
    "adam_beta2": (int, float), "adam_epsilon": (int, float), "max_grad_norm": (int, float),
    "warmup_ratio": (int, float), "num_train_epochs": (int, float), "max_steps": int,
    "warmup_steps": int, "seed": int, "lora_alpha": (int, float), "lora_dropout": (int, float),
    "bf16": bool,
}  # fmt: skip
_LEFT = {
    "mixtoken": "rows are not laid end to end; `pack: isolated` in a recipe does that",
    "output_dir": "runs/ holds what is made",
    "fp16": "products are in bf16 on a GPU, in fp32 on a CPU",
    "bf16": "products are in bf16 on a GPU, in fp32 on a CPU",
    "fp16_opt_level": "as fp16",
}
"""Arguments that do nothing here, and why."""
_OF_PADDLE = (
    "per_device_eval_batch_size", "eval_accumulation_steps", "overwrite_output_dir",
    "logging_steps", "evaluation_strategy", "save_strategy", "do_train", "do_eval",
    "disable_tqdm", "load_best_model_at_end", "eval_with_do_generation", "skip_memory_metrics",
    "benchmark", "save_total_limit", "tensor_parallel_degree", "sharding_parallel_degree",
    "sharding", "pipeline_parallel_degree", "unified_checkpoint", "report_to", "recompute",
)  # fmt: skip
"""Arguments of Paddle's trainer that change no weight, or how devices share the work."""
_SCHEDULES = {"cosine": "paddle_cosine", "linear": "paddle_linear", "constant": "constant"}


@dataclass(frozen=True)
class Arguments:
    """What a JSON file of arguments says, with changes of the command line."""

    path: Path
    values: Mapping[str, Any]

    @property
    def is_lora(self) -> bool:
        """Whether an adapter learns and all else is frozen."""
        return bool(self.values.get("lora"))

    def unused(self) -> dict[str, str]:
        """Arguments that do nothing here, and why."""
        found = {name: why for name, why in _LEFT.items() if self.values.get(name)}
        unknown = set(self.values) - set(_TAKEN) - set(_OF_PADDLE)
        return found | dict.fromkeys(sorted(unknown), "unknown here")

    def training(self) -> dict[str, Any]:
        """The settings of our `train` stage but for model and data.

        Raises:
            RecipeError: a value that has no counterpart.
        """
        value = self._number
        rows, steps = (
            value("per_device_train_batch_size", 1),
            value("gradient_accumulation_steps", 1),
        )
        batch = int(rows * steps)
        most = int(value("max_steps", -1))
        budget = {"steps": most} if most > 0 else {"epochs": value("num_train_epochs", 3)}
        return {
            "template": "mgen_vl",
            **self._learns(),
            **budget,
            "batch": batch,
            "micro_batch": int(rows),
            "max_length": int(value("max_length", 2048)),
            "optimiser": self._optimiser(),
            "save_every_samples": int(value("save_steps", 500)) * batch,
            "seed": int(value("seed", 42)),
        }

    def _learns(self) -> dict[str, Any]:
        if self.is_lora:
            targets = list(self.values.get("lora_target_modules", ()))
            named = targets == _LORA["lora_target_modules"]
            spec = {
                "rank": int(self._number("lora_rank", 8)),
                "alpha": self._number("lora_alpha", 16),
                "dropout": self._number("lora_dropout", 0.0),
                "targets": "ad_captions" if named else targets,
            }
            return {"train": [], "lora": spec}
        frozen = self.values.get("freeze_include"), self.values.get("freeze_exclude")
        if frozen != (_SHARED["freeze_include"], _SHARED["freeze_exclude"]):
            raise RecipeError(
                f"{self.path}: freeze_include {frozen[0]}, freeze_exclude {frozen[1]}: the kit "
                f"takes {_SHARED['freeze_include']} and {_SHARED['freeze_exclude']}; for other "
                "parts change train: in runs/ad_captions_full.yaml and give it to vlforge run"
            )
        return {"train": [r"connector\.attn_pool\.", "language"]}

    def _optimiser(self) -> dict[str, Any]:
        value = self._number
        name = str(self.values.get("lr_scheduler_type", "linear"))
        if name not in _SCHEDULES:
            raise RecipeError(
                f"{self.path}: lr_scheduler_type {name!r}{nearest(name, _SCHEDULES)}; "
                f"known here: {', '.join(_SCHEDULES)}"
            )
        steps = int(value("warmup_steps", 0))
        warmup = {"warmup_steps": steps} if steps else {"warmup_ratio": value("warmup_ratio", 0.0)}
        return {
            "lr": value("learning_rate", 5e-5),
            "schedule": _SCHEDULES[name],
            **warmup,
            "weight_decay": value("weight_decay", 0.0),
            "betas": [value("adam_beta1", 0.9), value("adam_beta2", 0.999)],
            "eps": value("adam_epsilon", 1e-8),
            "max_grad_norm": value("max_grad_norm", 1.0),
            "groups": "paddle",
        }

    def _number(self, name: str, default: float) -> Any:
        return self.values.get(name, default)


def read_arguments(path: Path, changes: Mapping[str, str] | None = None) -> Arguments:
    """The arguments in a file, changed by `changes`.

    Raises:
        RecipeError: no such file, no JSON, an unknown name in `changes`, or a wrong value.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; vlforge challenge ad-captions init") from None
    except ValueError as error:
        raise RecipeError(f"{path}: is no JSON ({error})") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: holds no arguments, but {type(values).__name__}")
    for name, text in (changes or {}).items():
        if name not in _TAKEN and name not in _OF_PADDLE:
            raise RecipeError(f"{name}={text}: no such argument{nearest(name, _TAKEN)}")
        values[name] = _typed(text)
    for name, value in values.items():
        _check_type(path, name, value)
    return Arguments(path, values)


def _check_type(path: Path, name: str, value: Any) -> None:
    wanted = _TAKEN.get(name)
    if wanted is None:
        return
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    is_odd = isinstance(value, bool) and bool not in kinds
    if is_odd or not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise RecipeError(f"{path}: {name} is {value!r}; it takes {names}")


def _typed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
