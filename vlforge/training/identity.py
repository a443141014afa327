"""What decides the numbers of a stage, by name: a checkpoint of another stage is not taken up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
"""All that decides a run's numbers, by the name that a user knows it by."""
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
            found |= flat(field.name, getattr(config, field.name))
    return found


def flat(name: str, value: Any) -> dict[str, Any]:
    """A nested value by dotted names below `name`."""
    inner: Mapping[str, Any] = {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        inner = value
    if inner:
        below = f"{name}." if name else ""
        return {k: v for key, one in inner.items() for k, v in flat(f"{below}{key}", one).items()}
    if isinstance(value, str) and "/" in value and Path(value).exists():
        return {name: Path(value).name}
    return {name: value} if name else {}


def difference(then: Facts, now: Facts) -> str:
    """What of a run is other than it was, in one line; "" where nothing is."""
    names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
    if not names:
        return ""
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return _change(names[0], then, now) + more


def _change(name: str, then: Facts, now: Facts) -> str:
    """One difference; a sum of contents has no value that would tell anybody anything."""
    values = [json.dumps(facts[name]) if name in facts else "unset" for facts in (then, now)]
    if max(map(len, values)) > 60:
        return f"{name} changed"
    return f"{name} was {values[0]} and is {values[1]}"
