"""Several samples in one sequence: XTuner's chunks, and packs that keep samples apart.

A chunk cuts samples where it is full and lets them see one another, as XTuner does
with texts. A pack holds whole samples, each with its own positions and blind to the
others (`models/parts/packs.py`), so that nothing changes but the padding.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from vlforge.types import DataError


def plan_packs(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group samples into packs of at most `budget` tokens.

    Best fit, longest sample first, so results depend only on the arguments.

    Args:
        lengths: tokens per sample with image tokens expanded, each > 0.
        budget: tokens a pack may hold.

    Returns:
        Sample indices per pack, ascending, packs by their first sample. Every index
        appears exactly once.

    Raises:
        DataError: a sample exceeds `budget`; names the worst one.

    Source: best-fit decreasing, Johnson 1973 (at most 11/9 OPT + 4 packs).
    """
    if len(lengths) and max(lengths) > budget:
        worst = max(range(len(lengths)), key=lambda index: lengths[index])
        raise DataError(
            f"sample {worst} has {lengths[worst]} tokens and a pack holds {budget}; "
            "raise pack_length or lower max_length"
        )
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = int(lengths[index])
        place = bisect_left(room, (length, -1))
        if place == len(room):
            left, pack = budget, len(packs)
            packs.append([])
        else:
            left, pack = room.pop(place)
        packs[pack].append(index)
        insort(room, (left - length, pack))
    return sorted(sorted(pack) for pack in packs)


@dataclass(frozen=True)
class Chunk:
    """A stretch of samples laid end to end; `bounds` from 0 to its length, where they meet."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    bounds: tuple[int, ...]

    @property
    def positions(self) -> list[int]:
        """Of each token, from 0 at every bound."""
        steps = zip(self.bounds, self.bounds[1:], strict=False)
        return [place for start, end in steps for place in range(end - start)]


class ChunkPacker:
    """XTuner's packer: calls give whole chunks and keep what is left for the next call.

    A call that does not fill one chunk gives what there is, shorter; with `drop_last`
    that and what is left are lost.

    Source: Packer of XTuner 0.1.23.
    """

    def __init__(self, size: int, *, drop_last: bool = False):
        self.size, self.drop_last = size, drop_last
        self._ids: list[int] = []
        self._labels: list[int] = []
        self._bounds = [0]

    def pack(self, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> list[Chunk]:
        """Chunks of `size` tokens of what was left and these samples."""
        for one, targets in zip(ids, labels, strict=True):
            self._ids += one
            self._labels += targets
            self._bounds.append(self._bounds[-1] + len(one))
        total = len(self._ids)
        if total < self.size:
            chunks = [] if self.drop_last else [self._chunk(0, total)]
            self._forget(total)
            return chunks
        ends = range(self.size, total + 1, self.size)
        chunks = [self._chunk(end - self.size, end) for end in ends]
        self._forget(ends[-1])
        return chunks

    def _chunk(self, start: int, end: int) -> Chunk:
        inside = [bound - start for bound in self._bounds if start < bound < end]
        ids, labels = tuple(self._ids[start:end]), tuple(self._labels[start:end])
        return Chunk(ids, labels, (0, *inside, end - start))

    def _forget(self, end: int) -> None:
        self._ids, self._labels = self._ids[end:], self._labels[end:]
        self._bounds = [0] + [bound - end for bound in self._bounds if bound > end]
