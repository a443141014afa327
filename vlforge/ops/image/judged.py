"""Filters on what a model thinks of each picture: beauty, nudity, watermarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, ImageFilter
from vlforge.ops.batch import Batch
from vlforge.ops.index import name_of
from vlforge.types import Drop, ModelError, Need, RecipeError

PREDICTOR = "aesthetics-predictor"
"""Part of a name by which Data-Juicer knows that scores go to 10."""


@dataclass(frozen=True, kw_only=True)
class JudgedImages(ImageFilter):
    """What filters share that judge pictures by a model.

    `head`, a file of weights, judges the embeddings of the CLIP folder `hf_clip`: then
    all operators with this `hf_clip` share one forward per picture.
    """

    hf_clip: str = ""
    head: str = ""

    needs: ClassVar = Need.MODEL

    def __post_init__(self) -> None:
        if bool(self.hf_clip) != bool(self.head):
            given, missing = ("hf_clip", "head") if self.hf_clip else ("head", "hf_clip")
            name = name_of(type(self).__name__)
            raise RecipeError(f"{name}: {given} alone says too little; give {missing} too")

    def judged(self, batch: Batch, encoder: str, head: str) -> list[list[float] | Drop]:
        """What a head gives for the embeddings of each row's pictures."""
        rows = batch.embedded_images(self, encoder)
        vectors = list(chain.from_iterable(row for row in rows if not isinstance(row, Drop)))
        if not vectors:
            return list(rows)
        judge = batch.context.head(head, name_of(type(self).__name__))
        told = iter(judge.judge(vectors))
        return [row if isinstance(row, Drop) else _next(told, len(row)) for row in rows]


@dataclass(frozen=True, kw_only=True)
class ImageAestheticsFilter(JudgedImages):
    """Keep rows whose pictures have an aesthetics score within bounds, 0 to 1.

    `hf_scorer_model` is the folder of an aesthetics predictor (v1, v2 linear, v2 ReLU:
    CLIP and head in one). Or give a CLIP folder as `hf_clip` and a file as `head`, such as
    LAION's `sac+logos+ava1-l14-linearMSE.pth`: then other operators share the forward.
    The models' scores, about 1 to 10, are divided by 10; Data-Juicer does so only if the
    name holds "aesthetics-predictor", which `compat: data_juicer` brings back.
    """

    hf_scorer_model: str = ""
    min_score: float = 0.5
    max_score: float = 1.0

    stats: ClassVar = ("image_aesthetics_scores",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the score."""
        return ((self.min_score, self.max_score),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        whole = self.hf_scorer_model or f"shunk031/{PREDICTOR}-v2-sac-logos-ava1-l14-linearMSE"
        rows = self.judged(batch, self.hf_clip or whole, self.head or whole)
        is_theirs = self.compat == "data_juicer" and not self.head
        if is_theirs and PREDICTOR not in whole:
            return (rows,)
        return ([_tenth(row) for row in rows],)


@dataclass(frozen=True, kw_only=True)
class ClassJudge(JudgedImages):
    """A filter on the probability of some classes of a classifier."""

    def classes(self) -> tuple[str, str, Sequence[str]]:
        """The classifier's folder, the key that names its classes, and these."""
        raise NotImplementedError

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        if self.head:
            return (self.judged(batch, self.hf_clip, self.head),)
        model, key, wanted = self.classes()
        rows = batch.classified_images(self, model)
        if not any(rows):
            return (list(rows),)
        name = name_of(type(self).__name__)
        labels = batch.context.classifier(model, name).labels
        places = self._places(name, labels, key, wanted)
        return ([row if isinstance(row, Drop) else _sums(row, places) for row in rows],)

    def _places(
        self, name: str, labels: Sequence[str], key: str, wanted: Sequence[str]
    ) -> Sequence[int]:
        if self.compat == "data_juicer":
            return (1,)
        known = {label.casefold(): place for place, label in enumerate(labels)}
        unknown = [label for label in wanted if label.casefold() not in known]
        if unknown:
            raise ModelError(
                f"{name}: {self.classes()[0]} has no class {unknown[0]!r}; set {key} to some of "
                f"{', '.join(labels)}"
            )
        return [known[label.casefold()] for label in wanted]


@dataclass(frozen=True, kw_only=True)
class ImageNSFWFilter(ClassJudge):
    """Keep rows whose pictures are not safe for work with a probability within bounds.

    `hf_nsfw_model` is the folder of a picture classifier; the probabilities of the classes
    called `nsfw_labels` (capitals aside) are summed. Data-Juicer takes the second class
    whatever it is called; `compat: data_juicer` brings that back. Or give a CLIP folder as
    `hf_clip` and one of LAION's NSFW heads for it as `head`.
    """

    hf_nsfw_model: str = "Falconsai/nsfw_image_detection"
    min_score: float = 0.0
    max_score: float = 0.5
    nsfw_labels: list[str] = field(default_factory=lambda: ["nsfw"])

    stats: ClassVar = ("image_nsfw_score",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the probability."""
        return ((self.min_score, self.max_score),)

    def classes(self) -> tuple[str, str, Sequence[str]]:
        """Those that are not safe."""
        return self.hf_nsfw_model, "nsfw_labels", self.nsfw_labels


@dataclass(frozen=True, kw_only=True)
class ImageWatermarkFilter(ClassJudge):
    """Keep rows whose pictures have a watermark with at most the probability given.

    `hf_watermark_model` is the folder of a picture classifier; the probabilities of the
    classes called `watermark_labels` (capitals aside) are summed. Data-Juicer takes the
    second class whatever it is called; `compat: data_juicer` brings that back. Or give a
    CLIP folder as `hf_clip` and a head for it as `head`.
    """

    hf_watermark_model: str = "amrul-hzz/watermark_detector"
    prob_threshold: float = 0.8
    watermark_labels: list[str] = field(default_factory=lambda: ["watermark"])

    stats: ClassVar = ("image_watermark_prob",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the probability."""
        return ((None, self.prob_threshold),)

    def classes(self) -> tuple[str, str, Sequence[str]]:
        """Those with a watermark."""
        return self.hf_watermark_model, "watermark_labels", self.watermark_labels


def _next(values: Iterator[float], count: int) -> list[float]:
    return [next(values) for _ in range(count)]


def _tenth(row: list[float] | Drop) -> list[float] | Drop:
    return row if isinstance(row, Drop) else [score / 10 for score in row]


def _sums(row: Sequence[Sequence[float]], places: Sequence[int]) -> list[float]:
    return [sum(chances[place] for place in places) for chances in row]
