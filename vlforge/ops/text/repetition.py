"""Filters on how much a text repeats itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.text.classes import PlainTable, parts_of, special_characters
from vlforge.ops.text.lengths import refuse_tokenization


@dataclass(frozen=True, kw_only=True)
class CharacterRepetitionFilter(TextFilter):
    """Keep texts whose most frequent character n-grams take a share within bounds.

    Of the distinct n-grams the most frequent are taken, as many as the square
    root of their number but none that occurs once; the statistic is their share
    of all n-grams, 0 for a text shorter than `rep_len`.
    """

    rep_len: int = 10
    min_ratio: float = 0.0
    max_ratio: float = 0.5

    stats: ClassVar = ("char_rep_ratio",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        table = batch.table(self.text_key, self.ignore_special_tokens)
        if isinstance(table, PlainTable):
            return ([character_repetition(text, self.rep_len) for text in table.texts],)
        from vlforge.ops.text.ngrams import repeats

        ratios = [0.0] * len(table.texts)
        for row, places in repeats(table, self.rep_len):
            ratios[row] = character_repetition(table.texts[row], self.rep_len, places)
        return (ratios,)


@dataclass(frozen=True, kw_only=True)
class WordRepetitionFilter(TextFilter):
    """Keep texts whose share of repeated word n-grams is within bounds.

    Words are lower-cased and lose special characters at both ends; words of
    nothing else vanish.
    """

    lang: str = "en"
    tokenization: bool = False
    rep_len: int = 10
    min_ratio: float = 0.0
    max_ratio: float = 0.5

    stats: ClassVar = ("word_rep_ratio",)

    def __post_init__(self) -> None:
        refuse_tokenization("word_repetition_filter", self.tokenization)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = batch.texts(self.text_key, self.ignore_special_tokens)
        return ([word_repetition(text, self.rep_len) for text in texts],)


def character_repetition(text: str, length: int, places: Iterable[int] | None = None) -> float:
    """The share that `CharacterRepetitionFilter` describes, of one text.

    `places` are starts of n-grams that hold all that occur twice; by default all starts.
    """
    total = len(text) - length + 1
    if total < 1:
        return 0.0
    grams = Counter(text[at : at + length] for at in (range(total) if places is None else places))
    counts = sorted((count for count in grams.values() if count > 1), reverse=True)
    distinct = total - sum(counts) + len(counts)
    return sum(counts[: math.isqrt(distinct)]) / total


def words_of(text: str) -> list[str]:
    """Lower-case words without special characters around them."""
    special = special_characters()
    parted = parts_of(text.lower())
    # ASCII letters are never special, and stripping against 1618 characters is slow.
    stripped = [
        part if part.isalpha() and part.isascii() else part.strip(special) for part in parted
    ]
    return [word for word in stripped if word]


def word_repetition(text: str, length: int) -> float:
    """The share of word n-grams that occur more than once, of one text."""
    if text.count(" ") + text.count("\n") + text.count("\t") < length:
        return 0.0
    words = words_of(text)
    # Each word of a repeated n-gram is a repeated word, so `length` of them at least.
    if len(words) - len(set(words)) < length:
        return 0.0
    grams = Counter(tuple(words[at : at + length]) for at in range(len(words) - length + 1))
    return sum(n for n in grams.values() if n > 1) / sum(grams.values())
