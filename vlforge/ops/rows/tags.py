"""The field in which a row carries its tags."""

from __future__ import annotations

from typing import Any

from vlforge.types import Row

META = "__dj__meta__"
"""Data-Juicer's key for a row's tags."""


def tags_of(row: Row) -> dict[str, Any]:
    """The tags that a row carries; not to be changed."""
    tags = row.get(META)
    return tags if isinstance(tags, dict) else {}


def tagged(row: Row, **tags: Any) -> Row:
    """A copy of the row with more tags; the old row and its tags stay as they are."""
    return {**row, META: {**tags_of(row), **tags}}
