"""How processes share a model: the names that `parallel` of a train stage takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlforge.types import RecipeError

NAMES = (
    "auto", "ddp", "fsdp2", "fsdp2_offload",
    "zero1", "zero1_offload", "zero2", "zero2_offload", "zero3", "zero3_offload",
)  # fmt: skip
_OFFLOAD = "_offload"
_TRUE = ("1", "true", "yes")


@dataclass(frozen=True)
class Parallel:
    """One way of sharing.

    `ddp`: every process holds the whole model. `fsdp2`: weights, gradients and moments
    are shared out, by torch. `zero`: by DeepSpeed, moments alone (`stage` 1), gradients
    too (2) or all (3). `offload` keeps what is shared out in main memory. `file` is a
    DeepSpeed JSON, whose words come before these.
    """

    kind: Literal["ddp", "fsdp2", "zero"] = "ddp"
    stage: int = 0
    offload: bool = False
    file: Path | None = None


def settle_parallel(text: str, environment: Mapping[str, str] | None = None) -> Parallel:
    """What a stage's `parallel` means; auto is what accelerate's launcher was told, or ddp.

    Raises:
        RecipeError: a name that is unknown, or a file that is not there.
    """
    known = os.environ if environment is None else environment
    if text == "auto":
        text = _told_by_accelerate(known)
    if text.endswith(".json"):
        if not Path(text).is_file():
            raise RecipeError(f"parallel: {text} is not there; give a DeepSpeed JSON or a name")
        return Parallel("zero", file=Path(text))
    name = text.removeprefix("deepspeed_")
    if name not in NAMES[1:] or (name != text and not name.startswith("zero")):
        raise RecipeError(
            f"parallel: {text!r} is unknown; take {', '.join(NAMES)} or a DeepSpeed JSON"
        )
    offload, name = name.endswith(_OFFLOAD), name.removesuffix(_OFFLOAD)
    if name.startswith("zero"):
        return Parallel("zero", int(name[-1]), offload)
    return Parallel("fsdp2" if name == "fsdp2" else "ddp", 0, offload)


def _told_by_accelerate(known: Mapping[str, str]) -> str:
    """The name of what `accelerate launch` and its file ask for."""

    def is_true(key: str) -> bool:
        return known.get(key, "").lower() in _TRUE

    if is_true("ACCELERATE_USE_DEEPSPEED"):
        file = known.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
        if file and file.lower() != "none":
            return file
        places = (known.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none")
                  for what in ("OPTIMIZER", "PARAM"))  # fmt: skip
        offload = _OFFLOAD if any(place not in ("none", "") for place in places) else ""
        return f"zero{known.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}{offload}"
    if is_true("ACCELERATE_USE_FSDP"):
        return f"fsdp2{_OFFLOAD if is_true('FSDP_OFFLOAD_PARAMS') else ''}"
    return "ddp"


def forget_accelerate(environment: dict[str, str] | os._Environ[str]) -> None:
    """Take away what would make accelerate share the model a second time."""
    for key in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION"):
        environment.pop(key, None)
