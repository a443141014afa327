"""Classes of characters, and counting them text by text for batches too small for numpy.

Importing numpy takes longer than counting ten rows by hand.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

ALNUM, SPECIAL, GAP = 1, 2, 4
"""Bits of a character's class: `str.isalnum`, in the special table, parts words."""
FEW_CHARACTERS = 20_000
"""A batch with fewer is counted without numpy."""


@functools.cache
def special_characters() -> str:
    """The characters that count as special: punctuation, digits, white space, symbols, emoji.

    Source: Data-Juicer 1.6.1, single code points of its table.
    """
    return Path(__file__).with_name("special_characters.txt").read_bytes().decode("utf-8")


@functools.cache
def _special_set() -> frozenset[str]:
    return frozenset(special_characters())


@functools.lru_cache(maxsize=4096)
def class_of(char: str) -> int:
    """The class bits of one character."""
    is_special = char in _special_set()
    return ALNUM * char.isalnum() | SPECIAL * is_special | GAP * (char in " \n\t")


class PlainTable:
    """What `TextTable` counts, text by text."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def ratios(self, bit: int) -> list[float]:
        """Share of characters of a class per text, 0.0 where a text is empty."""
        return [
            sum(class_of(char) & bit != 0 for char in text) / len(text) if text else 0.0
            for text in self.texts
        ]

    def word_counts(self) -> list[int]:
        """Words per text: parts between gaps that are not wholly special characters."""
        special = special_characters()
        return [sum(part.strip(special) != "" for part in parts_of(t)) for t in self.texts]


def parts_of(text: str) -> list[str]:
    """What blanks, line feeds and tabs part."""
    parted = text.replace("\n", " ").replace("\t", " ").split(" ")
    return [part for part in parted if part]
