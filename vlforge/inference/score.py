"""How well texts agree with pictures: by embedding, by tags, or by likelihood.

I pictures, T texts, D width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image as PillowImage
from torch import Tensor
from torch.nn import functional as F

from vlforge.inference.generate import log_probs
from vlforge.inference.load import Loaded
from vlforge.inference.prompts import Batches, Prompt, embed, pixels_of
from vlforge.models.reading import read_config
from vlforge.text.encode import encode_turns
from vlforge.types import LLAVA_IMAGE_TOKEN, ModelError, Scorer, Turn

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.embedders import LocalEmbedder
    from vlforge.inference.local import LocalModels

BLANK = (127, 127, 127)
"""The picture that shows nothing."""

LOWEST = -100.0
"""The score of a text that says nothing, and the least any text gets: statistics are
written as JSON, which knows no infinity."""


def open_scorer(models: LocalModels, path: str) -> Scorer:
    """The scorer in the folder `path`: cosine, matching, tags or likelihood, as the model can.

    Raises:
        ModelError: no such folder, or a model that does not compare texts with pictures.
    """
    from vlforge.inference.embedders import embeds, open_embedder

    kind = _model_type(path)
    if embeds(kind):
        return CosineScorer(open_embedder(models, path))
    if kind == "blip":
        from vlforge.inference.matching import open_matching

        return open_matching(models, path)
    return local_scorer(models.loaded(path), models.batch)


def _model_type(path: str) -> str:
    """What `config.json` calls the model; "" for what `load_model` tells by other files."""
    folder = Path(path)
    return str(read_config(folder).get("model_type")) if (folder / "config.json").is_file() else ""


def local_scorer(loaded: Loaded, batch: int = 32) -> Scorer:
    """The scorer that fits an opened model: cosine, tag agreement, or likelihood."""
    kinds = {"clip": _clip_scorer, "tagger": TagScorer, "family": LikelihoodScorer}
    if loaded.kind not in kinds:
        raise ModelError(
            f"{loaded.path}: a {loaded.kind} model does not score texts yet; give a CLIP folder, "
            "or the folder of a train or tags pretrain stage"
        )
    return kinds[loaded.kind](loaded, batch)


def _clip_scorer(loaded: Loaded, batch: int) -> CosineScorer:
    from vlforge.inference.embedders import LocalEmbedder, SquarePixels

    pixels = SquarePixels(loaded.model, loaded.processor)
    return CosineScorer(LocalEmbedder(loaded.model, loaded.tokenizer, pixels, batch))


class CosineScorer:
    """Cosine of the embeddings of a picture and a text, -1 to 1."""

    def __init__(self, embedder: LocalEmbedder):
        self.embedder = embedder

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """One cosine per pair; a picture or text that recurs is embedded once."""
        pictures, picture_of = distinct(images)
        words, text_of = distinct(texts)
        if not pictures:
            return []
        left = self.embedder.embed_images(pictures)[picture_of]
        right = self.embedder.embed_texts(words)[text_of]
        return (left * right).sum(-1).tolist()


class TagScorer:
    """How far a picture raises the words of a text: log-probabilities over those before looking.

    Natural logarithm, mean over the words that are tags, each once; about 0 for a
    text that has nothing to do with the picture, far below for one that it denies.
    """

    def __init__(self, loaded: Loaded, batch: int = 32):
        self.loaded = loaded
        self.batches = Batches(batch)

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """One score per pair; `LOWEST` for a text without a known word."""
        from vlforge.models.parts.tags import tag_targets

        pictures, picture_of = distinct(images)
        raised = self.batches.run(pictures, self._raised, length=lambda _: 0)
        found = tag_targets(texts, self.loaded.tokenizer, self.loaded.model.tags)
        return [
            max(float(raised[place][tags].mean()), LOWEST) if tags else LOWEST
            for place, tags in zip(picture_of, found, strict=True)
        ]

    @torch.inference_mode()
    def _raised(self, images: list[Image]) -> list[Tensor]:
        """Log-probability less that of the prior per tag, [V] per picture, on the CPU."""
        logits = self.loaded.model(pixels_of(self.loaded, images)).float()
        prior = self.loaded.model.prior.float()
        return list((F.logsigmoid(logits) - F.logsigmoid(prior)).cpu())


class LikelihoodScorer:
    """What a picture adds to a caption: its mean log-probability, less that beside a blank.

    Natural logarithm per token, about 0 for a caption that ignores the picture.
    Subtracting the blank takes out how common the words are by themselves.
    """

    def __init__(self, loaded: Loaded, batch: int = 32):
        self.loaded = loaded
        self.batches = Batches(batch)

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """One score per pair; `LOWEST` for an empty text."""
        size = self.loaded.processor.size
        blank = PillowImage.new("RGB", (size, size), BLANK)
        spoken = [self._encode(text) for text in texts]
        full = [place for place, text in enumerate(texts) if text.strip()]
        seen = self._likelihoods([(images[place], spoken[place]) for place in full])
        unseen = self._likelihoods([(blank, spoken[place]) for place in full])
        scores = [LOWEST] * len(texts)
        for place, with_picture, without in zip(full, seen, unseen, strict=True):
            scores[place] = max(with_picture - without, LOWEST)
        return scores

    def _encode(self, text: str) -> _Spoken:
        """The text as the model's template writes a caption, as long as the model takes."""
        words = text.replace(LLAVA_IMAGE_TOKEN, "").strip()
        turns = (Turn("user", LLAVA_IMAGE_TOKEN), Turn("assistant", words))
        encoded = encode_turns(
            self.loaded.template, self.loaded.tokenizer, turns, max_length=None, images=1
        )
        first = next(place for place, label in enumerate(encoded.labels) if label >= 0)
        spoken = [label for label in encoded.labels[first:] if label >= 0]
        limit = self.loaded.language.config.max_position_embeddings
        side = self.loaded.processor.size
        room = limit - self.loaded.model.count([(side, side)])[0] - first
        return _Spoken(tuple(encoded.ids[:first]), tuple(spoken[: max(room, 1)]))

    def _likelihoods(self, pairs: Sequence[tuple[Image, _Spoken]]) -> list[float]:
        def work(group: list[tuple[Image, _Spoken]]) -> list[float]:
            prompts = [Prompt(spoken.question, (image,)) for image, spoken in group]
            embeds = embed(self.loaded, prompts)
            words = [spoken.words for _, spoken in group]
            made = log_probs(self.loaded.language, embeds, words)
            return [sum(scores) / len(scores) for scores in made]

        return self.batches.run(pairs, work, length=lambda pair: len(pair[1].words))


@dataclass(frozen=True)
class _Spoken:
    """A caption in a template: the ids up to it, and its own with the end of the turn."""

    question: tuple[int, ...]
    words: tuple[int, ...]


def distinct(values: Sequence) -> tuple[list, list[int]]:
    """Distinct values (pictures by identity) and the place of each value among them."""
    places: dict[str | int, int] = {}
    distinct, where = [], []
    for value in values:
        name = value if isinstance(value, str) else id(value)
        if name not in places:
            places[name] = len(distinct)
            distinct.append(value)
        where.append(places[name])
    return distinct, where
