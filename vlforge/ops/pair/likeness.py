"""Filters on how alike the two pictures, or the two texts, of a row are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, ImageFilter, look_up
from vlforge.ops.batch import Batch
from vlforge.types import Drop, Need, RecipeError

_TWO = "row does not have exactly two different images"


@dataclass(frozen=True, kw_only=True)
class ImagePairSimilarityFilter(ImageFilter):
    """Keep rows whose two pictures have a CLIP cosine within bounds.

    A row with another number of pictures, or with one picture twice, is dropped;
    Data-Juicer stops with an error there. The forward is shared as in
    `image_text_similarity_filter`.
    """

    hf_clip: str = "openai/clip-vit-base-patch32"
    min_score: float = 0.1
    max_score: float = 1.0

    needs: ClassVar = Need.MODEL
    stats: ClassVar = ("image_pair_similarity",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the cosine."""
        return ((self.min_score, self.max_score),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        rows = batch.embedded_images(self, self.hf_clip)
        files = batch.image_files(self)
        return ([self._cosine(row, own) for row, own in zip(rows, files, strict=True)],)

    def _cosine(self, row: list[Any] | Drop, files: Sequence[Any]) -> list[float] | Drop:
        if len(files) != 2 or files[0] is files[1]:
            return Drop("", _TWO, None, len(files))
        return row if isinstance(row, Drop) else [float(row[0] @ row[1])]


@dataclass(frozen=True, kw_only=True)
class TextPairSimilarityFilter(ImageFilter):
    """Keep rows whose two texts have a CLIP cosine within bounds.

    The second is the field `text_key_second`; a row that lacks one of them stays.
    Texts are compared as they are; Data-Juicer does not cut one that is longer than the
    model reads, and fails there.
    """

    hf_clip: str = "openai/clip-vit-base-patch32"
    min_score: float = 0.1
    max_score: float = 1.0
    text_key_second: str | None = None

    needs: ClassVar = Need.MODEL
    stats: ClassVar = ("text_pair_similarity",)

    def __post_init__(self) -> None:
        if not self.text_key_second:
            raise RecipeError("text_pair_similarity_filter needs text_key_second, a field's name")

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the cosine."""
        return ((self.min_score, self.max_score),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        pairs = [
            (first, look_up(item.row, str(self.text_key_second)))
            for first, item in zip(batch.texts(self.text_key), batch.items, strict=True)
        ]
        full = [at for at, (a, b) in enumerate(pairs) if a and isinstance(b, str) and b]
        vectors = batch.embedded_texts(self, self.hf_clip, [t for at in full for t in pairs[at]])
        found: list[list[float]] = [[] for _ in pairs]
        for number, at in enumerate(full):
            found[at] = [float(vectors[2 * number] @ vectors[2 * number + 1])]
        return (found,)
