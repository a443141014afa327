"""DeepSpeed's JSON, as a stage fills it: one place where batch, precision and bounds are said.

A JSON from HF's Trainer or XTuner works as it is: "auto" is what the stage says, and a
value that says something else than the stage is refused with both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vlforge.training.config import TrainConfig
from vlforge.training.parallel import Parallel
from vlforge.types import RecipeError

AUTO = "auto"
_BUCKETS = {
    "reduce_bucket_size": 1.0,
    "stage3_prefetch_bucket_size": 0.9,
    "stage3_param_persistence_threshold": 0.0,
}
"""What HF's Trainer makes of "auto", in squares of the width; the last is 10 widths."""
_OURS = ("AdamW", "Adam")


def deepspeed_settings(
    parallel: Parallel, config: TrainConfig, devices: int, width: int
) -> dict[str, Any]:
    """The whole configuration of an engine.

    Args:
        config: the stage, its batch and precision settled.
        width: of the language model.

    Raises:
        RecipeError: the JSON cannot be read, or contradicts the stage.
    """
    given = _read(parallel)
    made = {**given, "zero_optimization": dict(given.get("zero_optimization", {}))}
    for key, ours in _stage_says(config, devices):
        made[key] = _agreed(parallel, key, made.get(key, AUTO), ours)
    for name in ("bf16", "fp16"):
        is_on = config.precision == name
        block = dict(made.get(name, {}))
        block["enabled"] = _agreed(parallel, f"{name}.enabled", block.get("enabled", AUTO), is_on)
        made[name] = {"enabled": False} if not is_on else _without_auto(block)
    _check_optimiser(parallel, made.pop("optimizer", {}), config)
    _check_scheduler(parallel, made.pop("scheduler", {}))
    # Held against the stage; the engine itself wants a product, also of a batch that is none.
    passes = made["train_micro_batch_size_per_gpu"] * made["gradient_accumulation_steps"]
    made["train_batch_size"] = passes * devices
    zero = made["zero_optimization"]
    for key, times in _BUCKETS.items():
        if zero.get(key) == AUTO:
            zero[key] = int(times * width * width) or 10 * width
    made["zero_optimization"] = _without_auto(zero)
    # AdamW is ours on every device: DeepSpeed's own wants a compiler.
    made["zero_force_ds_cpu_optimizer"] = False
    made["zero_allow_untested_optimizer"] = True
    return _without_auto(made)


def _read(parallel: Parallel) -> dict[str, Any]:
    if parallel.file is None:
        zero: dict[str, Any] = {"stage": parallel.stage, "contiguous_gradients": True}
        if parallel.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        if parallel.offload and parallel.stage == 3:
            zero["offload_param"] = {"device": "cpu"}
        return {"zero_optimization": zero}
    try:
        given = json.loads(parallel.file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"parallel: {parallel.file} is no JSON ({error}); mend it") from None
    if not isinstance(given, dict):
        raise RecipeError(f"parallel: {parallel.file} holds no object of settings; mend it")
    return given


def _stage_says(config: TrainConfig, devices: int) -> Iterator[tuple[str, Any]]:
    """Keys that the stage decides, and its values; passes are counted by the loop."""
    batch = int(config.batch)
    share = -(-batch // devices)
    micro = share if config.micro_batch == "auto" else min(int(config.micro_batch), share)
    yield "gradient_clipping", config.optimiser.max_grad_norm
    yield "train_batch_size", batch
    yield "train_micro_batch_size_per_gpu", micro
    yield "gradient_accumulation_steps", -(-batch // (micro * devices))


def _agreed(parallel: Parallel, key: str, told: Any, ours: Any) -> Any:
    if told in (AUTO, ours) or _as_number(told) == ours:
        return ours
    word = _WORDS.get(key.split(".")[0], key)
    raise RecipeError(
        f"{parallel.file}: {key} is {told!r} and the stage says {ours!r}; "
        f'write "auto" there, or set the stage\'s {word}'
    )


_WORDS = {
    "gradient_clipping": "optimiser.max_grad_norm",
    "train_batch_size": "batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "accumulation",
    "optimizer": "optimiser",
    "bf16": "precision",
    "fp16": "precision",
}


def _check_optimiser(parallel: Parallel, block: Mapping[str, Any], config: TrainConfig) -> None:
    """The stage's own optimiser is taken; the JSON may only say the same."""
    if not block:
        return
    if block.get("type", AUTO) not in (AUTO, *_OURS):
        raise RecipeError(
            f"{parallel.file}: optimizer {block['type']!r}; stages take AdamW: leave it out"
        )
    ours = config.optimiser
    says = {"lr": ours.lr, "eps": ours.eps, "weight_decay": ours.weight_decay,
            "betas": list(ours.betas)}  # fmt: skip
    for key, value in dict(block.get("params", {})).items():
        if key in says:
            _agreed(parallel, f"optimizer.params.{key}", value, says[key])


def _check_scheduler(parallel: Parallel, block: Mapping[str, Any]) -> None:
    said = {key for key, value in dict(block.get("params", {})).items() if value != AUTO}
    if said:
        raise RecipeError(
            f"{parallel.file}: scheduler.params.{min(said)} is set, and the stage's own schedule "
            'counts; write "auto" there, or leave scheduler out'
        )


def _as_number(value: Any) -> Any:
    """JSON has 1e-5 as text where somebody quoted it."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _without_auto(block: Mapping[str, Any]) -> dict[str, Any]:
    """What is still "auto" is DeepSpeed's own default."""
    return {key: value for key, value in block.items() if value != AUTO}
