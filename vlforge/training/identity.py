"""What decides the numbers of a stage, by name: a checkpoint of another stage is not taken up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

WITHOUT_EFFECT = frozenset(
    (
        "resume", "save_every_samples", "keep_last", "keep_best", "trackers", "decode", "export",
        "evaluate", "expect_global_batch", "checkpointing", "parallel",
    )
)  # fmt: skip
"""Settings of a stage that change no number of its weights."""
_ELSEWHERE = frozenset(("data", "image_root"))
"""Settings whose effect is seen better in the rows that they lead to."""


def facts_of(config: Any) -> dict[str, Any]:
    """Settings by their dotted names, without those that decide nothing.

    Folders count by their last name: a run that was moved is still the same run.
    """
    left_out = WITHOUT_EFFECT | _ELSEWHERE
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.name not in left_out:
            found |= _flat(field.name, getattr(config, field.name))
    return found


def _flat(name: str, value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {k: v for key, one in inner.items() for k, v in _flat(f"{name}.{key}", one).items()}
    if isinstance(value, str) and "/" in value and Path(value).exists():
        return {name: Path(value).name}
    return {name: value}
