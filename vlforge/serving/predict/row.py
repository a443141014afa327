"""A row on its way: what is asked, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from vlforge.types import Sample


@dataclass(frozen=True)
class Row:
    """A row of the input, by its number from 0; `digest` tells whether it is still the same.

    Without a `sample` nothing can be asked, and `reason` is the same for all with this fault.
    `is_damaged`: its picture's base64 broke off, and what was left is asked about.
    """

    number: int
    digest: int
    id: Any
    sample: Sample | None
    reason: str = ""
    detail: str = ""
    is_damaged: bool = False


class Answer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What became of a row, as it is kept: a text, or the reason for none.

    `is_damaged`: its picture was cut off or damaged, and the text is of what was left.
    `confidence` is the mean log-probability, None where nobody knows it.
    """

    number: int
    digest: int
    id: Any
    text: str = ""
    confidence: float | None = None
    reason: str = ""
    detail: str = ""
    is_damaged: bool = False
