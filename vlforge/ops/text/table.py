"""The texts of a batch as one array of code points, classified by a table.

Counting characters per text this way costs a few nanoseconds a character; the
same as a loop over strings costs ten times that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlforge.ops.text.classes import GAP, SPECIAL, class_of

SLICE = 1 << 15
"""Characters worked on at a time: their arrays stay in a core's cache and the peak low."""
_UNKNOWN = 128


@functools.cache
def _classes() -> Any:
    """[0x110000] uint8: class bits per code point, filled as characters are met."""
    return np.full(0x110000, _UNKNOWN, dtype=np.uint8)


def _classes_of(codes: Any) -> Any:
    """Class bits of code points, worked out for characters that were not met before."""
    table = _classes()
    found = table[codes]
    unknown = found == _UNKNOWN
    if unknown.any():
        # `np.unique` would import numpy.ma, which takes longer than all of this.
        is_new = np.zeros(len(table), dtype=bool)
        is_new[codes[unknown]] = True
        for code in np.flatnonzero(is_new).tolist():
            table[code] = class_of(chr(code))
        found = table[codes]
    return found


def slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts that follow each other and hold `SLICE` characters, or one that holds more."""
    first = size = 0
    for at, text in enumerate(texts):
        if size and size + len(text) > SLICE:
            yield texts[first:at]
            first, size = at, 0
        size += len(text)
    if first < len(texts):
        yield texts[first:]


def _codes_of(texts: Sequence[str]) -> Any:
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


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
        starts: [R] where each text begins, end to end.
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = texts
        self.lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        self.starts = np.concatenate(([0], np.cumsum(self.lengths)[:-1])).astype(np.int64)

    @functools.cached_property
    def codes(self) -> Any:
        """[C] uint32 code points of all texts."""
        return _codes_of(self.texts)

    @functools.cached_property
    def classes(self) -> Any:
        """[C] uint8 class bits."""
        found = np.empty(int(self.lengths.sum()), dtype=np.uint8)
        at = 0
        for some in slices(self.texts):
            codes = _codes_of(some)
            for begin in range(0, len(codes), SLICE):
                part = codes[begin : begin + SLICE]
                found[at : at + len(part)] = _classes_of(part)
                at += len(part)
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
