"""Filtering captions by how likely an image-text model finds them beside their pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from vlforge.ops.base import Bounds
from vlforge.ops.batch import Batch
from vlforge.ops.pair.chunks import ChunkJudge, Pair, shown
from vlforge.types import Drop, ModelError, Refusal

if TYPE_CHECKING:
    from PIL.Image import Image

OP = "image_caption_likelihood_filter"
BLANK = (127, 127, 127)
"""The picture that shows nothing."""
LOWEST = -100.0
"""The least that is told: statistics are written as JSON, which knows no infinity."""


class PictureLanguage(Protocol):
    """A language scorer that sees pictures too."""

    def caption_log_probs(
        self, images: Sequence[Image], texts: Sequence[str], question: str
    ) -> list[list[float] | Refusal]:
        """Natural log-probabilities of each text's tokens beside its picture, or why none."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageCaptionLikelihoodFilter(ChunkJudge):
    """Keep rows whose captions an image-text model expects from their pictures.

    `model` is the folder of a train stage, or of an image-text model of transformers; it is
    asked `question` and told the caption as the answer (BLIP-2, which knows no questions,
    the caption alone). The score is the caption's mean log-probability per token (natural
    logarithm) beside its picture, less that beside a grey one: what the picture adds, about
    0 for a caption that could stand beside any picture. `subtract_blank: false` gives the
    likelihood itself, which also falls with rare words, and takes half the time.
    """

    model: str
    min_score: float
    max_score: float | None = None
    question: str = "Describe the picture."
    subtract_blank: bool = True

    stats: ClassVar = ("image_caption_likelihood",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the log-probability, or of what the picture adds to it."""
        return ((self.min_score, self.max_score),)

    def wants(self, text: str) -> bool:
        """Whether there are words to score."""
        return bool(text)

    def scores(self, batch: Batch, pairs: Sequence[Pair]) -> list[float | Drop]:
        """One log-probability per pair, or why its picture has none."""
        scorer: Any = batch.context.language(self.model, OP)
        if not hasattr(scorer, "caption_log_probs"):
            raise ModelError(f"{OP}: {self.model!r} sees no pictures; give an image-text model")
        found: dict[int, float | Drop] = {}
        for places, images, faults in shown(batch, pairs, self.turns()):
            found.update(faults)
            texts = [pairs[at].text for at in places]
            found.update(zip(places, self._some(scorer, images, texts), strict=True))
        return [found[at] for at in range(len(pairs))]

    def _some(
        self, scorer: PictureLanguage, images: Sequence[Image], texts: Sequence[str]
    ) -> list[float | Drop]:
        if not texts:
            return []
        seen = [_mean(one) for one in scorer.caption_log_probs(images, texts, self.question)]
        if not self.subtract_blank:
            return seen
        from PIL import Image as pillow

        blanks = [pillow.new("RGB", image.size, BLANK) for image in images]
        unseen = [_mean(one) for one in scorer.caption_log_probs(blanks, texts, self.question)]
        return [_less(one, other) for one, other in zip(seen, unseen, strict=True)]


def _mean(values: Sequence[float] | Refusal) -> float | Drop:
    if isinstance(values, Refusal):
        return Drop("", values.reason, None, values.detail or None)
    return max(math.fsum(values) / len(values), LOWEST) if values else LOWEST


def _less(one: float | Drop, other: float | Drop) -> float | Drop:
    if isinstance(one, Drop):
        return one
    return other if isinstance(other, Drop) else max(one - other, LOWEST)
