"""Filters on what kinds of characters a text is made of."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.text.classes import ALNUM, SPECIAL
from vlforge.ops.text.pieces import PYTHIA, token_counter, tokenizer_file


@dataclass(frozen=True, kw_only=True)
class AlphanumericFilter(TextFilter):
    """Keep texts whose share of letters and digits is within bounds.

    Letters and digits are those of `str.isalnum`; an empty text has 0. With
    `tokenization` letters (`str.isalpha`) per token of `hf_tokenizer` are
    counted: `tokenizer.json`, a tokenizer's folder, a sentencepiece `.model`, or
    the hub's name of one in its cache, by default the tokenizer of Data-Juicer.
    """

    tokenization: bool = False
    min_ratio: float = 0.25
    max_ratio: float = sys.maxsize
    hf_tokenizer: str = PYTHIA

    def __post_init__(self) -> None:
        if self.tokenization:
            tokenizer_file(self.hf_tokenizer, "alphanumeric_filter.hf_tokenizer")

    @property
    def stats(self) -> tuple[str, ...]:  # type: ignore[override]
        """By characters or by tokens."""
        return ("alpha_token_ratio",) if self.tokenization else ("alnum_ratio",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        if self.tokenization:
            return (self._letters_per_token(batch),)
        return (batch.table(self.text_key, self.ignore_special_tokens).ratios(ALNUM),)

    def _letters_per_token(self, batch: Batch) -> list[float]:
        texts = batch.texts(self.text_key, self.ignore_special_tokens)
        key = "alphanumeric_filter.hf_tokenizer"
        counts = token_counter(tokenizer_file(self.hf_tokenizer, key), key)(texts)
        return [
            sum(map(str.isalpha, text)) / count if count else 0.0
            for text, count in zip(texts, counts, strict=True)
        ]


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
