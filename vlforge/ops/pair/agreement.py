"""Filters on how well a text agrees with its pictures, by a model's judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import Bounds, ImageFilter
from vlforge.ops.batch import Batch, drop_of
from vlforge.types import Drop, Need

if TYPE_CHECKING:
    from PIL.Image import Image

_PAIRS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class PairJudge(ImageFilter):
    """Scores each chunk of a text against each of its pictures.

    The chunk's text goes without special tokens; a chunk without pictures or
    without words has no score. The scores of a chunk's pictures become one by
    `reduce_mode`; a row stays if any or all of its chunks fit.
    """

    reduce_mode: Literal["avg", "max", "min"] = "avg"
    horizontal_flip: bool = False
    vertical_flip: bool = False

    needs: ClassVar = Need.MODEL

    def model_path(self) -> str:
        """Where the scoring model lies."""
        raise NotImplementedError

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        rows: list[list[_Pair] | Drop] = []
        files = batch.image_files(self)
        for text, pictures in zip(batch.texts(self.text_key), files, strict=True):
            rows.append(_pairs(text, pictures, batch))
        usable = [pair for row in rows if isinstance(row, list) for pair in row]
        scores = iter(self._scores(batch, usable))
        return ([self._chunks(row, scores) for row in rows],)

    def _scores(self, batch: Batch, pairs: Sequence[_Pair]) -> list[float | Drop]:
        found: list[float | Drop] = []
        for at in range(0, len(pairs), _PAIRS_AT_ONCE):
            found += self._some_scores(batch, pairs[at : at + _PAIRS_AT_ONCE])
        return found

    def _some_scores(self, batch: Batch, pairs: Sequence[_Pair]) -> list[float | Drop]:
        images: list[Image] = []
        texts: list[str] = []
        faults: dict[int, Drop] = {}
        for at, pair in enumerate(pairs):
            try:
                images.append(self._turned(batch.files.rgb(pair.file)))
                texts.append(pair.text)
            except ImageError as error:
                faults[at] = drop_of(error)
        scorer = batch.context.scorer(self.model_path(), type(self).__name__) if texts else None
        scores = iter(scorer.score(images, texts) if scorer is not None else [])
        return [faults[at] if at in faults else float(next(scores)) for at in range(len(pairs))]

    def _turned(self, image: Image) -> Image:
        from PIL.Image import Transpose

        if self.horizontal_flip:
            image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(Transpose.FLIP_TOP_BOTTOM) if self.vertical_flip else image

    def _chunks(self, row: list[_Pair] | Drop, scores: Any) -> list[float] | Drop:
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


@dataclass(frozen=True, kw_only=True)
class ImageTextSimilarityFilter(PairJudge):
    """Keep rows whose texts and pictures have a CLIP cosine within bounds."""

    hf_clip: str = "openai/clip-vit-base-patch32"
    min_score: float = 0.1
    max_score: float = 1.0

    stats: ClassVar = ("image_text_similarity",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the cosine."""
        return ((self.min_score, self.max_score),)

    def model_path(self) -> str:
        """The CLIP folder."""
        return self.hf_clip


@dataclass(frozen=True, kw_only=True)
class ImageTextAgreementFilter(PairJudge):
    """Keep rows whose texts agree with their pictures, judged by a model of VLForge.

    `model` is the folder of a tagger or captioner; the scale of the score is
    the model's own.
    """

    model: str
    min_score: float
    max_score: float | None = None

    stats: ClassVar = ("image_text_agreement",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the model's score."""
        return ((self.min_score, self.max_score),)

    def model_path(self) -> str:
        """The model's folder."""
        return self.model


@dataclass(frozen=True)
class _Pair:
    """One picture and the text of its chunk."""

    chunk: int
    text: str
    file: ImageFile


def _pairs(text: str, files: Sequence[ImageFile], batch: Batch) -> list[_Pair] | Drop:
    """The pairs of a row; a drop where its tokens do not match its pictures."""
    context = batch.context
    count = text.count(context.image_token)
    if count != len(files):
        detail = f"{count} image tokens but {len(files)} images"
        return Drop("", "image tokens do not match images", None, detail, None)
    left = iter(files)
    pairs = []
    for number, chunk in enumerate(text.split(context.eoc_token)):
        own = [next(left) for _ in range(chunk.count(context.image_token))]
        said = context.plain(chunk)
        pairs += [_Pair(number, said, file) for file in own if said]
    return pairs
