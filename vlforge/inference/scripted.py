"""Models that say what they were told to: for tests, recorded cases and dry runs.

They follow the same protocols as the local models and need neither torch nor
weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.types import Caption, Captioner, ModelError, Sample, Scorer

if TYPE_CHECKING:
    from PIL.Image import Image


def fingerprint(image: Image) -> str:
    """Names a picture by its size and RGB pixels, wherever it came from."""
    rgb = image.convert("RGB")
    return hashlib.sha1(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


@dataclass(frozen=True)
class ScriptedCaptioner:
    """The k-th candidate for a picture is its k-th caption, round and round.

    `captions` maps a picture's `fingerprint` to its captions. A prompt is
    echoed as ` [prompt=...]`, so that a case shows which one arrived. The
    confidence is 0 for the first caption and falls by 1 with each.
    """

    captions: Mapping[str, Sequence[str]]

    @classmethod
    def of_files(cls, captions: Mapping[str | Path, Sequence[str]]) -> ScriptedCaptioner:
        """The same from picture files."""
        from vlforge.data.images import load_rgb

        return cls({fingerprint(load_rgb(path)): texts for path, texts in captions.items()})

    def caption(
        self,
        images: Sequence[Image],
        prompts: Sequence[str | None],
        count: int,
        keys: Sequence[int],
    ) -> list[list[Caption]]:
        """`count` candidates per image; `keys` change nothing."""
        return [
            [self._candidate(image, prompt, k) for k in range(count)]
            for image, prompt in zip(images, prompts, strict=True)
        ]

    def _candidate(self, image: Image, prompt: str | None, k: int) -> Caption:
        name = fingerprint(image)
        if name not in self.captions:
            raise ModelError(
                f"no scripted caption for the picture {name} ({image.size[0]}x{image.size[1]}); "
                "add one for its file"
            )
        texts = self.captions[name]
        place = k % len(texts)
        echo = "" if prompt is None else f" [prompt={prompt}]"
        return Caption(texts[place] + echo, -float(place))


@dataclass(frozen=True)
class ScriptedScorer:
    """The score of a text is what `scores` says, whatever the picture."""

    scores: Mapping[str, float]
    otherwise: float = 0.0

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """One score per pair."""
        return [
            self.scores.get(text, self.otherwise) for _, text in zip(images, texts, strict=True)
        ]


@dataclass(frozen=True)
class ScriptedChat:
    """The answer to a question is what `answers` says of its last turn, `<image>` lines aside."""

    answers: Mapping[str, str]
    otherwise: str = ""

    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[Caption]:
        """One answer per sample, never cut."""
        return [Caption("".join(self.stream(sample, max_new_tokens)), 0.0) for sample in samples]

    def stream(self, sample: Sample, max_new_tokens: int) -> Iterator[str]:
        """The answer word by word."""
        lines = sample.turns[-1].text.splitlines()
        question = "\n".join(line for line in lines if line.strip() != "<image>")
        words = self.answers.get(question, self.otherwise).split(" ")
        yield words[0]
        yield from (f" {word}" for word in words[1:])


@dataclass(frozen=True)
class ScriptedModels:
    """A `ModelSource` whose paths are names."""

    captioners: Mapping[str, Captioner] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)

    def captioner(self, path: str) -> Captioner:
        """The captioner called `path`."""
        return _named(self.captioners, path, "captioner")

    def scorer(self, path: str) -> Scorer:
        """The scorer called `path`."""
        return _named(self.scorers, path, "scorer")


def _named(models: Mapping[str, object], path: str, kind: str) -> object:
    if path not in models:
        known = ", ".join(sorted(models)) or "none"
        raise ModelError(f"no scripted {kind} called {path!r}; there are: {known}")
    return models[path]
