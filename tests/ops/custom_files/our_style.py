"""Operators as a user of VLForge writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, Filter, TextFilter, TextMapper
from vlforge.ops.batch import Batch


class WordsBase(TextMapper):
    """Not an operator: its name says no kind."""


@dataclass(frozen=True, kw_only=True)
class QuestionMarkFilter(TextFilter):
    """Keep texts with at most so many question marks."""

    most: int = 1

    stats: ClassVar = ("question_marks",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the count."""
        return ((None, self.most),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """Question marks per text."""
        return ([text.count("?") for text in batch.texts(self.text_key)],)


@dataclass(frozen=True, kw_only=True)
class ShoutingMapper(TextMapper):
    """Write texts in capitals."""

    def rewrite(self, text: str) -> str:
        """In capitals."""
        return text.upper()


@dataclass(frozen=True, kw_only=True)
class TextLengthFilter(Filter):
    """Ours has this name too; this one wins because it says so."""

    replaces_builtin = True

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """Nothing."""
        return ([True] * len(batch.items),)

    def keep(self, *values: Any) -> bool:
        """Everything."""
        return bool(values[0])
