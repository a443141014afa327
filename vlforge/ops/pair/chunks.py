"""Texts in chunks beside their pictures, one score per chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import ImageFilter
from vlforge.ops.batch import Batch, drop_of
from vlforge.ops.embedded import turned
from vlforge.types import Drop, Need

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class Pair:
    """One picture and the text of its chunk."""

    chunk: int
    text: str
    file: ImageFile


@dataclass(frozen=True, kw_only=True)
class ChunkJudge(ImageFilter):
    """Scores each chunk of a text against each of its pictures.

    The chunk's text goes without special tokens; a chunk without pictures or
    without words has no score. The scores of a chunk's pictures become one by
    `reduce_mode`; a row stays if any or all of its chunks fit, and without scores.
    `horizontal_flip` and `vertical_flip` turn a picture before.
    """

    reduce_mode: Literal["avg", "max", "min"] = "avg"
    horizontal_flip: bool = False
    vertical_flip: bool = False

    needs: ClassVar = Need.MODEL

    def scores(self, batch: Batch, pairs: Sequence[Pair]) -> list[float | Drop]:
        """One score per pair, or why there is none."""
        raise NotImplementedError

    def wants(self, text: str) -> bool:
        """Whether a chunk with this text has a score; Data-Juicer's way also without words."""
        return bool(text) or self.compat == "data_juicer"

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        rows: list[list[Pair] | Drop] = [
            self._pairs(text, pictures, batch)
            for text, pictures in zip(
                batch.texts(self.text_key), batch.image_files(self), strict=True
            )
        ]
        usable = [pair for row in rows if isinstance(row, list) for pair in row]
        scores = iter(self.scores(batch, usable) if usable else ())
        return ([self._chunks(row, scores) for row in rows],)

    def turns(self) -> tuple[Transpose, ...]:
        """What is done to a picture before a model sees it."""
        from PIL.Image import Transpose

        chosen = (
            (self.horizontal_flip, Transpose.FLIP_LEFT_RIGHT),
            (self.vertical_flip, Transpose.FLIP_TOP_BOTTOM),
        )
        return tuple(turn for is_on, turn in chosen if is_on)

    def _pairs(self, text: str, files: Sequence[ImageFile], batch: Batch) -> list[Pair] | Drop:
        """The pairs of a row; a drop where its tokens do not match its pictures."""
        context = batch.context
        fault = context.unmatched(text, files)
        if fault is not None:
            return fault
        pairs = []
        for number, (chunk, own) in enumerate(context.chunks(text, files)):
            said = context.plain(chunk)
            pairs += [Pair(number, said, file) for file in own if self.wants(said)]
        return pairs

    def _chunks(self, row: list[Pair] | Drop, scores: Iterator[Any]) -> list[float] | Drop:
        """One score per chunk of a row, or why it has none."""
        if isinstance(row, Drop):
            return row
        by_chunk: dict[int, list[float]] = {}
        fault: Drop | None = None
        for pair in row:
            score = next(scores)
            if isinstance(score, Drop):
                fault = fault or score
            else:
                by_chunk.setdefault(pair.chunk, []).append(score)
        return fault or [self._reduced(found) for found in by_chunk.values()]

    def _reduced(self, scores: Sequence[float]) -> float:
        if self.reduce_mode == "avg":
            return sum(scores) / len(scores)
        return max(scores) if self.reduce_mode == "max" else min(scores)


class Shown(NamedTuple):
    """Some pairs: the places of those whose picture can be read, these, and faults by place."""

    places: list[int]
    images: list[Image]
    faults: dict[int, Drop]


def shown(batch: Batch, pairs: Sequence[Pair], turns: Sequence[Transpose]) -> Iterator[Shown]:
    """Pairs with opened pictures, some at a time.

    A picture that several of them show is one and the same object.
    """
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        opened: dict[ImageFile, Image | Drop] = {}
        found = Shown([], [], {})
        for at, pair in enumerate(pairs[first : first + PAIRS_AT_ONCE], first):
            if pair.file not in opened:
                opened[pair.file] = _opened(batch, pair.file, turns)
            image = opened[pair.file]
            if isinstance(image, Drop):
                found.faults[at] = image
            else:
                found.places.append(at)
                found.images.append(image)
        yield found


def _opened(batch: Batch, file: ImageFile, turns: Sequence[Transpose]) -> Image | Drop:
    try:
        return turned(batch.files.rgb(file), turns)
    except ImageError as error:
        return drop_of(error)
