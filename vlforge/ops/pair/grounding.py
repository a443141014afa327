"""How many of the things that a text names are found in its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vlforge.ops.base import Bounds
from vlforge.ops.batch import Batch
from vlforge.ops.pair.chunks import ChunkJudge, Pair, shown
from vlforge.ops.text.noun_phrases import noun_phrases, tagger_at, tagger_place
from vlforge.types import Box, Drop

_NAME = "phrase_grounding_recall_filter"


@dataclass(frozen=True, kw_only=True)
class PhraseGroundingRecallFilter(ChunkJudge):
    """Keep rows of whose noun phrases a detector finds enough in the pictures.

    The recall of a chunk and a picture is the share of its noun phrases (determiner,
    adjectives, nouns; each counted once) that have a box. Of the detector's boxes as many
    are looked at as there are phrases, the surest first; a box is passed over if its
    phrase has one already, if its score is not above `conf_thr`, if it fills more than
    `large_area_ratio_thr` of the picture, or if it overlaps a box that counts by more than
    `iou_thr`. A chunk without phrases has recall 1.

    `hf_owlvit` is the folder of an OWL-ViT or OWLv2. Parts of speech come from NLTK's
    tagger, as in Data-Juicer: `tagger` is the unpacked folder of its
    `averaged_perceptron_tagger_eng` (else it is looked for where NLTK keeps data); nothing
    is downloaded. Or from a spaCy model, `spacy_model`. Texts are English.
    """

    hf_owlvit: str = "google/owlvit-base-patch32"
    min_recall: float = 0.1
    max_recall: float = 1.0
    iou_thr: float = 0.5
    large_area_ratio_thr: float = 0.95
    conf_thr: float = 0.0
    tagger: str = ""
    spacy_model: str = ""

    stats: ClassVar = ("phrase_grounding_recall",)

    def __post_init__(self) -> None:
        tagger_place(self.tagger, self.spacy_model, _NAME)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the recall."""
        return ((self.min_recall, self.max_recall),)

    def wants(self, text: str) -> bool:
        """Every chunk with a picture: without words it names nothing that could be missing."""
        return True

    def scores(self, batch: Batch, pairs: Sequence[Pair]) -> list[float | Drop]:
        """One recall per pair, or why there is none."""
        tag = tagger_at(*tagger_place(self.tagger, self.spacy_model, _NAME))
        said = {text: noun_phrases(text, tag) for text in {pair.text for pair in pairs}}
        found: dict[int, float | Drop] = {}
        for places, images, faults in shown(batch, pairs, self.turns()):
            found.update(faults)
            phrases = [said[pairs[at].text] for at in places]
            boxes: Sequence[Sequence[Box]] = [()] * len(places)
            if any(phrases):
                grounder = batch.context.grounder(self.hf_owlvit, _NAME)
                boxes = grounder.ground(images, phrases)
            for at, image, own, seen in zip(places, images, phrases, boxes, strict=True):
                found[at] = self.recall(seen, len(own), image.width * image.height)
        return [found[at] for at in range(len(pairs))]

    def recall(self, boxes: Sequence[Box], phrases: int, area: int) -> float:
        """The share of phrases that have a box; `boxes` come with the surest first."""
        if not phrases:
            return 1.0
        hits: dict[int, Box] = {}
        sure = [box for box in boxes if box.score > self.conf_thr]
        for box in sure[:phrases]:
            is_large = _area(box) / area > self.large_area_ratio_thr
            is_known = box.phrase in hits or any(
                overlap(box, hit) > self.iou_thr for hit in hits.values()
            )
            if not is_large and not is_known:
                hits[box.phrase] = box
        return len(hits) / phrases


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(width, 0.0) * max(height, 0.0)
    union = _area(one) + _area(other) - shared
    return shared / union if union else 0.0


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)
