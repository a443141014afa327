"""Filters on how long a text, its lines and its words are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.text.pieces import refined_pieces, sentencepiece_file
from vlforge.types import RecipeError


@dataclass(frozen=True, kw_only=True)
class TextLengthFilter(TextFilter):
    """Keep texts with a number of characters within bounds."""

    min_len: int = 10
    max_len: int = sys.maxsize

    stats: ClassVar = ("text_len",)

    def bounds(self) -> tuple[Bounds, ...]:
        """In characters."""
        return ((self.min_len, self.max_len),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return ([len(t) for t in batch.texts(self.text_key, self.ignore_special_tokens)],)


@dataclass(frozen=True, kw_only=True)
class AverageLineLengthFilter(TextFilter):
    """Keep texts whose characters per line are within bounds; line ends count as characters."""

    min_len: float = 10
    max_len: float = sys.maxsize

    stats: ClassVar = ("avg_line_length",)

    def bounds(self) -> tuple[Bounds, ...]:
        """In characters per line."""
        return ((self.min_len, self.max_len),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = batch.texts(self.text_key, self.ignore_special_tokens)
        return ([len(text) / (len(text.splitlines()) or 1) for text in texts],)


@dataclass(frozen=True, kw_only=True)
class MaximumLineLengthFilter(TextFilter):
    """Keep texts whose longest line is within bounds."""

    min_len: int = 10
    max_len: int = sys.maxsize

    stats: ClassVar = ("max_line_length",)

    def bounds(self) -> tuple[Bounds, ...]:
        """In characters."""
        return ((self.min_len, self.max_len),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = batch.texts(self.text_key, self.ignore_special_tokens)
        return ([max(map(len, text.splitlines()), default=0) for text in texts],)


@dataclass(frozen=True, kw_only=True)
class WordsNumFilter(TextFilter):
    """Keep texts with a number of words within bounds.

    Words are parted by blanks, line feeds and tabs; what is nothing but special
    characters (digits too) is no word. With `tokenization` words are the pieces
    of the sentencepiece model `sp_model`, by default Data-Juicer's download for
    the language `lang`.
    """

    lang: str = "en"
    tokenization: bool = False
    min_num: int = 10
    max_num: int = sys.maxsize
    sp_model: str = ""

    stats: ClassVar = ("num_words",)

    def __post_init__(self) -> None:
        if self.tokenization:
            sentencepiece_file(self.sp_model, self.lang, "words_num_filter")

    def bounds(self) -> tuple[Bounds, ...]:
        """In words."""
        return ((self.min_num, self.max_num),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        if self.tokenization:
            cut = refined_pieces(self.sp_model, self.lang, "words_num_filter", lower=False)
            return ([len(cut(t)) for t in batch.texts(self.text_key, self.ignore_special_tokens)],)
        return (batch.table(self.text_key, self.ignore_special_tokens).word_counts(),)


def refuse_tokenization(op: str, wanted: bool) -> None:
    """Say that an operator's words cannot be found by a sentencepiece model."""
    if wanted:
        raise RecipeError(
            f"{op}.tokenization finds words by a sentencepiece model, which is not there yet: "
            "set tokenization: false"
        )
