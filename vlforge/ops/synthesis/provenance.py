"""Where a made row comes from: it says so itself, in the field `provenance`."""

from __future__ import annotations

from typing import Any

from vlforge.types import Row

PROVENANCE = "provenance"
"""Field of rows that a model had a hand in: a list, one entry per operator, oldest first."""


def origin(
    op: str, source: str, *, model: str = "", prompt: str = "", seed: int | None = None, **more: Any
) -> dict[str, Any]:
    """One entry: operator, source row's uid, model, the prompt's hash, the run's seed."""
    told: dict[str, Any] = {"op": op, "source": source}
    told |= {"model": model} if model else {}
    told |= {"prompt": prompt} if prompt else {}
    told |= {"seed": seed} if seed is not None else {}
    return told | more


def with_origin(row: Row, entry: dict[str, Any]) -> Row:
    """A copy of the row that tells of one more operator."""
    before = row.get(PROVENANCE)
    return {**row, PROVENANCE: [*(before if isinstance(before, list) else ()), entry]}
