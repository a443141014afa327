"""Filters on how much a text repeats itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.text.classes import PlainTable, parts_of, special_characters
from vlforge.ops.text.pieces import refined_pieces, sentencepiece_file
from vlforge.types import RecipeError


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

    def __post_init__(self) -> None:
        _check_length("character_repetition_filter", self.rep_len)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        table = batch.table(self.text_key, self.ignore_special_tokens)
        if isinstance(table, PlainTable):
            return ([character_repetition(text, self.rep_len) for text in table.texts],)
        from vlforge.ops.text.ngrams import character_ratios

        return (character_ratios(table.texts, self.rep_len, character_repetition),)


@dataclass(frozen=True, kw_only=True)
class WordRepetitionFilter(TextFilter):
    """Keep texts whose share of repeated word n-grams is within bounds.

    Words are lower-cased and lose special characters at both ends; words of
    nothing else vanish. With `tokenization` words are the pieces of the
    sentencepiece model `sp_model`, by default Data-Juicer's download for the
    language `lang`.
    """

    lang: str = "en"
    tokenization: bool = False
    rep_len: int = 10
    min_ratio: float = 0.0
    max_ratio: float = 0.5
    sp_model: str = ""

    stats: ClassVar = ("word_rep_ratio",)

    def __post_init__(self) -> None:
        if self.tokenization:
            sentencepiece_file(self.sp_model, self.lang, "word_repetition_filter")
        _check_length("word_repetition_filter", self.rep_len)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        if self.tokenization:
            cut = refined_pieces(self.sp_model, self.lang, "word_repetition_filter")
            texts = batch.texts(self.text_key, self.ignore_special_tokens)
            return ([repeated_share(cut(text), self.rep_len) for text in texts],)
        table = batch.table(self.text_key, self.ignore_special_tokens)
        if isinstance(table, PlainTable):
            return ([word_repetition(text, self.rep_len) for text in table.texts],)
        from vlforge.ops.text.ngrams import word_ratios

        return (word_ratios(table.texts, self.rep_len, word_repetition),)


def character_repetition(text: str, length: int) -> float:
    """The share that `CharacterRepetitionFilter` describes, of one text."""
    total = len(text) - length + 1
    if total < 1:
        return 0.0
    grams = Counter(text[at : at + length] for at in range(total))
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
    return repeated_share(words_of(text), length)


def repeated_share(words: list[str], length: int) -> float:
    """The share of n-grams of words that occur more than once."""
    # Each word of a repeated n-gram is a repeated word, so `length` of them at least.
    if len(words) - len(set(words)) < length:
        return 0.0
    grams = Counter(tuple(words[at : at + length]) for at in range(len(words) - length + 1))
    return sum(n for n in grams.values() if n > 1) / sum(grams.values())


def _check_length(name: str, length: int) -> None:
    if length < 1:
        raise RecipeError(f"{name}.rep_len is {length}: an n-gram holds 1 or more")
