"""Filters on how many of a text's words stand in a list: stop words, flagged words."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.downloads import ASSETS, assets_folder
from vlforge.ops.text.pieces import refined_pieces, sentencepiece_file
from vlforge.ops.text.repetition import words_of
from vlforge.types import RecipeError

BUILTIN = "builtin"
"""Names our own lists in place of a folder."""


@dataclass(frozen=True, kw_only=True)
class ListedWords(TextFilter):
    """What filters on a share of listed words have in common.

    Words are lower-cased and lose special characters at both ends, as in
    `word_repetition_filter`; listed words count as they are written.
    """

    lang: str = "en"
    tokenization: bool = False
    min_ratio: float = 0.0
    max_ratio: float = 1.0
    use_words_aug: bool = False
    words_aug_group_sizes: tuple[int, ...] = (2,)
    words_aug_join_char: str = ""
    sp_model: str = ""

    op: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.words_aug_group_sizes):
            sizes = list(self.words_aug_group_sizes)
            raise RecipeError(f"{self.op}.words_aug_group_sizes is {sizes}: sizes start at 1")
        if self.tokenization:
            sentencepiece_file(self.sp_model, self.lang, self.op)
        self._listed  # noqa: B018  a missing list is told at load

    def lists(self) -> dict[str, list[str]]:
        """The listed words per language."""
        raise NotImplementedError

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share."""
        return ((self.min_ratio, self.max_ratio),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = batch.texts(self.text_key, self.ignore_special_tokens)
        return ([self._share(words) for words in self._words(texts)],)

    @functools.cached_property
    def _listed(self) -> frozenset[str]:
        lists = self.lists()
        if self.lang not in lists and self.lang != "all":
            there = ", ".join(sorted(lists))
            raise RecipeError(
                f"{self.op}.lang is {self.lang!r}, of which there is no list: choose all, {there}"
            )
        if self.lang in lists:
            return frozenset(lists[self.lang])
        return frozenset(word for words in lists.values() for word in words)

    def _share(self, words: list[str]) -> float:
        return sum(map(self._listed.__contains__, words)) / len(words) if words else 0.0

    def _words(self, texts: Sequence[str]) -> Iterator[list[str]]:
        find = words_of
        if self.tokenization:
            find = refined_pieces(self.sp_model, self.lang, self.op)
        for text in texts:
            words = find(text)
            yield words + self._groups(words) if self.use_words_aug else words

    def _groups(self, words: list[str]) -> list[str]:
        return [
            self.words_aug_join_char.join(words[at : at + size])
            for size in self.words_aug_group_sizes
            for at in range(len(words) - size + 1)
        ]


@dataclass(frozen=True, kw_only=True)
class FlaggedWordsFilter(ListedWords):
    """Keep texts whose share of flagged words is within bounds.

    `flagged_words_dir` holds the lists: files of JSON with `flagged_words` in
    their name, of the form `{"en": ["word", ...], ...}`; by default
    Data-Juicer's folder of downloads, which is empty where Data-Juicer never ran:
    there are no lists of ours. `lang: all` takes the words of all languages.

    Words are what blanks, line feeds and tabs part, lower-cased and without
    special characters at their ends; with `tokenization` the pieces of the
    sentencepiece model `sp_model` (by default Data-Juicer's download for the
    language). `use_words_aug` adds all runs of `words_aug_group_sizes` words,
    joined by `words_aug_join_char`, to find listed phrases. A text without words
    has the share 0.
    """

    max_ratio: float = 0.045
    flagged_words_dir: str = ASSETS

    op: ClassVar[str] = "flagged_words_filter"
    stats: ClassVar = ("flagged_words_ratio",)

    def lists(self) -> dict[str, list[str]]:
        """The lists in the folder."""
        lists = lists_in(self.flagged_words_dir, "flagged_words", self.op)
        if not lists:
            raise RecipeError(
                f"flagged_words_filter.flagged_words_dir is {self.flagged_words_dir!r}, a folder "
                'without *flagged_words*.json: write one ({"en": [...]}) or copy Data-Juicer\'s'
            )
        return lists


@dataclass(frozen=True, kw_only=True)
class StopwordsFilter(ListedWords):
    """Keep texts whose share of stop words is within bounds.

    `stopwords_dir` holds the lists: files of JSON with `stopwords` in their
    name, of the form `{"en": ["word", ...], ...}`; by default Data-Juicer's
    folder of downloads, which is empty where Data-Juicer never ran.
    `stopwords_dir: builtin` takes small lists of our own (de, en, es, fr, it, ja,
    nl, pt, ru, zh): other words than Data-Juicer's, so other shares. `lang: all`
    takes the words of all languages.

    Words are what blanks, line feeds and tabs part, lower-cased and without
    special characters at their ends; with `tokenization` the pieces of the
    sentencepiece model `sp_model` (by default Data-Juicer's download for the
    language). `use_words_aug` adds all runs of `words_aug_group_sizes` words,
    joined by `words_aug_join_char`, to find listed phrases. A text without words
    has the share 0.
    """

    min_ratio: float = 0.3
    stopwords_dir: str = ASSETS

    op: ClassVar[str] = "stopwords_filter"
    stats: ClassVar = ("stopwords_ratio",)

    def lists(self) -> dict[str, list[str]]:
        """The lists in the folder, or ours."""
        if self.stopwords_dir == BUILTIN:
            ours = files(__package__).joinpath("stopwords.json").read_text(encoding="utf-8")
            found: dict[str, list[str]] = json.loads(ours)
            return found
        lists = lists_in(self.stopwords_dir, "stopwords", self.op)
        if not lists:
            raise RecipeError(
                f"stopwords_filter.stopwords_dir is {self.stopwords_dir!r}, a folder without "
                "*stopwords*.json: copy Data-Juicer's there, or set stopwords_dir: builtin "
                "for small lists of our own"
            )
        return lists


def lists_in(folder: str, kind: str, op: str) -> dict[str, list[str]]:
    """The words per language of all `*kind*.json` in a folder; none where it is missing.

    Raises:
        RecipeError: a file does not hold lists of words.
    """
    place = assets_folder() if folder == ASSETS else Path(folder).expanduser()
    lists: dict[str, list[str]] = {}
    for path in sorted(place.glob(f"*{kind}*.json")):
        for lang, words in _read(path, op).items():
            lists.setdefault(lang, []).extend(words)
    return lists


def _read(path: Path, op: str) -> dict[str, list[str]]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{op}: {path} cannot be read: {error}") from None
    is_right = isinstance(read, dict) and all(
        isinstance(words, list) and all(isinstance(word, str) for word in words)
        for words in read.values()
    )
    if not is_right:
        raise RecipeError(f'{op}: {path} is not of the form {{"en": ["word", ...], ...}}')
    found: dict[str, list[str]] = read
    return found
