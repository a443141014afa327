"""Mappers that delete words. Runs of blanks, tabs and line feeds shrink to one on the way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from vlforge.ops.base import TextMapper
from vlforge.ops.text.classes import special_characters
from vlforge.ops.text.lengths import refuse_tokenization


@dataclass(frozen=True, kw_only=True)
class RemoveLongWordsMapper(TextMapper):
    """Delete words whose length is outside `min_len` to `max_len` characters.

    Words stand between blanks, tabs and line feeds. One that is too long stays if
    it fits without special characters (punctuation, digits, symbols, emoji) at its
    ends. Repeated blanks, tabs and line feeds shrink to one, those at the ends go.
    """

    min_len: int = 1
    max_len: int = sys.maxsize

    def rewrite(self, text: str) -> str:
        """The text without them."""
        if self.min_len <= 1 and len(text) <= self.max_len:
            return with_words(text, None)
        return with_words(text, self._stays)

    def _stays(self, word: str) -> bool:
        if len(word) > self.max_len:
            word = word.strip(special_characters())
        return self.min_len <= len(word) <= self.max_len


@dataclass(frozen=True, kw_only=True)
class RemoveWordsWithIncorrectSubstringsMapper(TextMapper):
    """Delete words that contain one of some strings, by default parts of links.

    Words stand between blanks, tabs and line feeds; special characters (punctuation,
    digits, symbols, emoji) at their ends do not count. Repeated blanks, tabs and
    line feeds shrink to one, those at the ends go. `lang` has no effect while
    `tokenization` is false, and only that is supported.
    """

    lang: str = "en"
    tokenization: bool = False
    substrings: list[str] | None = None

    def __post_init__(self) -> None:
        refuse_tokenization("remove_words_with_incorrect_substrings_mapper", self.tokenization)

    def rewrite(self, text: str) -> str:
        """The text without them."""
        if any(part in text for part in self._parts):
            return with_words(text, self._stays)
        return with_words(text, None)

    def _stays(self, word: str) -> bool:
        if not any(part in word for part in self._parts):
            return True
        word = word.strip(special_characters())
        return not any(part in word for part in self._parts)

    @property
    def _parts(self) -> list[str]:
        if self.substrings is None:
            return ["http", "www", ".com", "href", "//"]
        return self.substrings


def with_words(text: str, stays: Callable[[str], bool] | None) -> str:
    """The text of the words that stay, all for None, with single separators."""
    lines = []
    for line in text.split("\n"):
        parts = []
        for part in line.split("\t"):
            words = [word for word in part.split(" ") if word and (stays is None or stays(word))]
            if words:
                parts.append(" ".join(words))
        if parts:
            lines.append("\t".join(parts))
    return "\n".join(lines)
