"""A bitmap font of capitals, five pixels wide and seven high, so that no font file is needed."""

from __future__ import annotations

import functools

import numpy as np

_ROWS = {
    "A": "0E 11 11 1F 11 11 11",
    "B": "1E 11 11 1E 11 11 1E",
    "C": "0E 11 10 10 10 11 0E",
    "D": "1E 11 11 11 11 11 1E",
    "E": "1F 10 10 1E 10 10 1F",
    "F": "1F 10 10 1E 10 10 10",
    "G": "0E 11 10 17 11 11 0F",
    "H": "11 11 11 1F 11 11 11",
    "I": "0E 04 04 04 04 04 0E",
    "J": "07 02 02 02 02 12 0C",
    "K": "11 12 14 18 14 12 11",
    "L": "10 10 10 10 10 10 1F",
    "M": "11 1B 15 15 11 11 11",
    "N": "11 11 19 15 13 11 11",
    "O": "0E 11 11 11 11 11 0E",
    "P": "1E 11 11 1E 10 10 10",
    "Q": "0E 11 11 11 15 12 0D",
    "R": "1E 11 11 1E 14 12 11",
    "S": "0F 10 10 0E 01 01 1E",
    "T": "1F 04 04 04 04 04 04",
    "U": "11 11 11 11 11 11 0E",
    "V": "11 11 11 11 11 0A 04",
    "W": "11 11 11 15 15 15 0A",
    "X": "11 11 0A 04 0A 11 11",
    "Y": "11 11 0A 04 04 04 04",
    "Z": "1F 01 02 04 08 10 1F",
}
"""Per letter seven rows from the top, each the five pixels as a hexadecimal number."""

HEIGHT = 7
"""Font pixels from the top of a letter to its foot."""


@functools.cache
def letter_mask(letter: str) -> np.ndarray:
    """[7, 5] bool: where `letter` (A-Z) has ink."""
    rows = [int(row, 16) for row in _ROWS[letter].split()]
    return np.array([[bool(row >> (4 - column) & 1) for column in range(5)] for row in rows])


def word_mask(word: str, scale: int, gap: int) -> np.ndarray:
    """[7 * scale, width] bool: `word` in capitals, `gap` font pixels between its letters."""
    space = np.zeros((HEIGHT, gap), dtype=bool)
    parts = [part for letter in word for part in (letter_mask(letter), space)][:-1]
    return np.kron(np.concatenate(parts, axis=1), np.ones((scale, scale), dtype=bool))
