"""Filtering by how many tokens a text is to a language model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.text.pieces import PYTHIA, token_counter, tokenizer_file

KEY = "token_num_filter.hf_tokenizer"


@dataclass(frozen=True, kw_only=True)
class TokenNumFilter(TextFilter):
    """Keep texts with a number of tokens within bounds; no special tokens are added.

    `hf_tokenizer` is a `tokenizer.json`, a tokenizer's folder, a sentencepiece
    `.model`, or the hub's name of a tokenizer in its cache on this machine; nothing
    is downloaded. A folder without `tokenizer.json` needs transformers.
    """

    hf_tokenizer: str = PYTHIA
    min_num: int = 10
    max_num: int = sys.maxsize

    stats: ClassVar = ("num_token",)

    def __post_init__(self) -> None:
        tokenizer_file(self.hf_tokenizer, KEY)

    def bounds(self) -> tuple[Bounds, ...]:
        """In tokens."""
        return ((self.min_num, self.max_num),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = batch.texts(self.text_key, self.ignore_special_tokens)
        return (token_counter(tokenizer_file(self.hf_tokenizer, KEY), KEY)(texts),)
