"""Filters on how well a text agrees with its pictures, by a model's judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vlforge.ops.base import Bounds
from vlforge.ops.batch import Batch
from vlforge.ops.index import name_of
from vlforge.ops.pair.chunks import ChunkJudge, Pair, shown
from vlforge.types import Drop


@dataclass(frozen=True, kw_only=True)
class PairJudge(ChunkJudge):
    """Scores pairs by a model that looks at picture and text together."""

    def model_path(self) -> str:
        """Where the scoring model lies."""
        raise NotImplementedError

    def scores(self, batch: Batch, pairs: Sequence[Pair]) -> list[float | Drop]:
        """One score per pair, by the model; or why there is none."""
        found: dict[int, float | Drop] = {}
        name = name_of(type(self).__name__)
        for places, images, faults in shown(batch, pairs, self.turns()):
            found.update(faults)
            if not places:
                continue
            texts = [pairs[at].text for at in places]
            scores = batch.context.scorer(self.model_path(), name).score(images, texts)
            found.update(zip(places, map(float, scores), strict=True))
        return [found[at] for at in range(len(pairs))]


@dataclass(frozen=True, kw_only=True)
class ImageTextSimilarityFilter(ChunkJudge):
    """Keep rows whose texts and pictures have a CLIP cosine within bounds.

    `hf_clip` is the folder of a CLIP, Chinese-CLIP, SigLIP or SigLIP 2 (the cosines of
    SigLIP are small, so give bounds of its own). All operators that name the same folder
    share one forward per picture. With `compat: data_juicer` the score is the model's
    logit / 100: the cosine where a CLIP's scale is 100, a number of its own for SigLIP;
    and a chunk of pictures without words is scored, which here is not.
    """

    hf_clip: str = "openai/clip-vit-base-patch32"
    min_score: float = 0.1
    max_score: float = 1.0

    stats: ClassVar = ("image_text_similarity",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the cosine."""
        return ((self.min_score, self.max_score),)

    def scores(self, batch: Batch, pairs: Sequence[Pair]) -> list[float | Drop]:
        """One score per pair, by the model; or why there is none."""
        files = [pair.file for pair in pairs]
        seen = batch.embedded_files(self, self.hf_clip, files, self.turns())
        texts = batch.embedded_texts(self, self.hf_clip, [pair.text for pair in pairs])
        return [
            image if isinstance(image, Drop) else self._scaled(batch, float(image @ text))
            for image, text in zip(seen, texts, strict=True)
        ]

    def _scaled(self, batch: Batch, cosine: float) -> float:
        if self.compat != "data_juicer":
            return cosine
        embedder = batch.context.embedder(self.hf_clip, "image_text_similarity_filter")
        scale, bias = getattr(embedder, "scale", 100.0), getattr(embedder, "bias", 0.0)
        return float(scale * cosine + bias) / 100


@dataclass(frozen=True, kw_only=True)
class ImageTextMatchingFilter(PairJudge):
    """Keep rows whose texts match their pictures by BLIP's matching head.

    The score is the probability of a match, 0 to 1; `hf_blip` is the folder of a
    `BlipForImageTextRetrieval`. Data-Juicer also scores a chunk of pictures without
    words; that comes back with `compat: data_juicer`.
    """

    hf_blip: str = "Salesforce/blip-itm-base-coco"
    min_score: float = 0.003
    max_score: float = 1.0

    stats: ClassVar = ("image_text_matching_score",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the probability."""
        return ((self.min_score, self.max_score),)

    def model_path(self) -> str:
        """The BLIP folder."""
        return self.hf_blip


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
