"""Filters on what kinds of characters a text is made of."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.text.classes import ALNUM, SPECIAL
from vlforge.types import RecipeError


@dataclass(frozen=True, kw_only=True)
class AlphanumericFilter(TextFilter):
    """Keep texts whose share of letters and digits is within bounds.

    Letters and digits are those of `str.isalnum`; an empty text has 0.
    """

    tokenization: bool = False
    min_ratio: float = 0.25
    max_ratio: float = sys.maxsize

    stats: ClassVar = ("alnum_ratio",)

    def __post_init__(self) -> None:
        if self.tokenization:
            raise RecipeError(
                "alphanumeric_filter.tokenization counts letters per token of a language model, "
                "which is not there yet: set tokenization: false"
            )

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return (batch.table(self.text_key, self.ignore_special_tokens).ratios(ALNUM),)


@dataclass(frozen=True, kw_only=True)
class SpecialCharactersFilter(TextFilter):
    """Keep texts whose share of punctuation, digits, white space, symbols and emoji fits."""

    min_ratio: float = 0.0
    max_ratio: float = 0.25

    stats: ClassVar = ("special_char_ratio",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return (batch.table(self.text_key, self.ignore_special_tokens).ratios(SPECIAL),)
