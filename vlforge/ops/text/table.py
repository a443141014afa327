"""The texts of a batch as one array of code points, classified by a table.

Counting characters per text this way costs a few nanoseconds a character; the
same as a loop over strings costs ten times that.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vlforge.ops.text.classes import GAP, SPECIAL, class_of

_UNKNOWN = 128


@functools.cache
def _classes() -> Any:
    """[0x110000] uint8: class bits per code point, filled as characters are met."""
    return np.full(0x110000, _UNKNOWN, dtype=np.uint8)


def _learn(codes: Any) -> None:
    table = _classes()
    # `np.unique` would import numpy.ma, which takes longer than all of this.
    is_there = np.zeros(len(table), dtype=bool)
    is_there[codes] = True
    for code in np.flatnonzero(is_there).tolist():
        table[code] = class_of(chr(code))


class Words(NamedTuple):
    """The words of some texts: what gaps part, without special characters at both ends.

    Attributes:
        starts: [W] where each begins in the texts' code points.
        lengths: [W] characters of each, at least 1.
        rows: [W] the text of each, rising.
    """

    starts: Any
    lengths: Any
    rows: Any


class TextTable:
    """Code points and class bits of some texts, end to end.

    Attributes:
        texts: the texts.
        lengths: [R] characters per text.
        starts: [R] where each text begins in `codes`.
        codes: [C] uint32 code points of all texts.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self.starts = np.concatenate(([0], np.cumsum(self.lengths)[:-1])).astype(np.int64)
        joined = "".join(texts).encode("utf-32-le", "surrogatepass")
        self.codes = np.frombuffer(joined, dtype=np.uint32)

    @functools.cached_property
    def classes(self) -> Any:
        """[C] uint8 class bits."""
        found = _classes()[self.codes]
        unknown = found == _UNKNOWN
        if unknown.any():
            _learn(self.codes[unknown])
            found = _classes()[self.codes]
        return found

    def count(self, bit: int) -> Any:
        """[R] characters of a class per text."""
        return self.sums((self.classes & bit) != 0)

    def sums(self, marks: Any) -> Any:
        """[R] number of marks per text, of `marks` [C] bool."""
        total = np.zeros(len(self.lengths), dtype=np.int64)
        filled = self.lengths > 0
        if filled.any():
            total[filled] = np.add.reduceat(
                marks.view(np.uint8), self.starts[filled], dtype=np.int64
            )
        return total

    def ratios(self, bit: int) -> list[float]:
        """Share of characters of a class per text, 0.0 where a text is empty."""
        counts = self.count(bit)
        return np.divide(
            counts, self.lengths, out=np.zeros(len(counts)), where=self.lengths > 0
        ).tolist()

    def word_counts(self) -> list[int]:
        """Words per text: parts between gaps that are not wholly special characters."""
        return np.bincount(self.words().rows, minlength=len(self.texts)).tolist()

    def words(self) -> Words:
        """All words, in order."""
        solid = np.flatnonzero((self.classes & (GAP | SPECIAL)) == 0)
        rows = np.repeat(np.arange(len(self.texts), dtype=np.int32), self.lengths)
        # A number that grows at every gap and with every text tells the parts apart.
        part = np.cumsum((self.classes & GAP) != 0, dtype=np.int32)
        part += rows
        turns = np.flatnonzero(np.diff(part[solid]))
        starts, ends = solid[:1], solid[-1:]
        if len(turns):
            starts = np.concatenate((starts, solid[turns + 1]))
            ends = np.concatenate((solid[turns], ends))
        return Words(starts, ends - starts + 1, rows[starts])
