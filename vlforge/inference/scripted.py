"""Models that say what they were told to: for tests, recorded cases and dry runs.

They follow the same protocols as the local models and need neither torch nor
weights.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.types import (
    Caption,
    Captioner,
    Drawing,
    EndpointSpec,
    ModelError,
    Piece,
    Refusal,
    Sample,
    Scorer,
    Writer,
)

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
        all_drawn: bool = False,
    ) -> list[list[Caption] | Refusal]:
        """`count` candidates per image; `keys` and `all_drawn` change nothing."""
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


@dataclass
class ScriptedWriter:
    """Answers by `reply`, which sees a request and how often it was put; notes all requests."""

    reply: Callable[[Sample, int], str | Refusal]
    asked: list[Sample] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)

    def write(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> list[list[Caption] | Refusal]:
        """`drawing.candidates` answers per request; a request is named by its sample's id."""
        found: list[list[Caption] | Refusal] = []
        for sample in samples:
            self.asked.append(sample)
            text = self.reply(sample, self._seen[sample.id])
            self._seen[sample.id] += 1
            many = isinstance(text, Refusal)
            found.append(text if many else [Caption(text, 0.0)] * drawing.candidates)  # type: ignore
        return found


@dataclass
class ScriptedSpeaker:
    """Says what `reply` gives for a request, a word a piece; `refuse` ones say why not.

    A `serving.talking.Speaker`. `goes` is asked before each round of words, so that a test
    can hold answers up. An answer is cut after `max_new_tokens` words.
    """

    reply: Callable[[Sample, Drawing, int], str | Refusal]
    goes: Callable[[], object] = lambda: None
    asked: list[tuple[Sample, Drawing, int]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    sees: bool = True
    closed: int = 0

    def stream_many(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> Iterator[Piece]:
        """The words of all answers, round by round."""
        try:
            yield from self._rounds(samples, drawing, keys)
        finally:
            self.closed += 1

    def _rounds(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> Iterator[Piece]:
        words: dict[int, list[str]] = {}
        for place, (sample, key) in enumerate(zip(samples, keys, strict=True)):
            self.asked.append((sample, drawing, key))
            said = self.reply(sample, drawing, key)
            if isinstance(said, Refusal):
                yield Piece(place, f"{said.reason}: {said.detail}", "refused")
            else:
                words[place] = said.split(" ")
        for step in range(max(map(len, words.values()), default=0)):
            self.goes()
            for place, said in tuple(words.items()):
                text = said[step] if step == 0 else f" {said[step]}"
                is_cut = step + 1 == drawing.max_new_tokens < len(said)
                ended = "length" if is_cut else "stop" if step + 1 == len(said) else ""
                yield Piece(place, text, ended, len(samples[place].turns), step + 1)  # type: ignore
                if ended:
                    del words[place]


@dataclass(frozen=True)
class ScriptedModels:
    """A `ModelSource` whose paths are names."""

    captioners: Mapping[str, Captioner] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    """Embedders, writers, classifiers, grounders, language scorers, painters."""

    def captioner(self, path: str) -> Captioner:
        """The captioner called `path`."""
        return _named(self.captioners, path, "captioner")

    def scorer(self, path: str) -> Scorer:
        """The scorer called `path`."""
        return _named(self.scorers, path, "scorer")

    def writer(self, path: str | EndpointSpec) -> Writer:
        """The writer called `path`, or like the endpoint's model."""
        name = path if isinstance(path, str) else path.model
        return _named(self.others, name, "writer")

    def embedder(self, path: str) -> Any:
        """The embedder called `path`."""
        return _named(self.others, path, "embedder")

    def classifier(self, path: str) -> Any:
        """The classifier called `path`."""
        return _named(self.others, path, "classifier")

    def head(self, path: str) -> Any:
        """The head called `path`."""
        return _named(self.others, path, "head")

    def grounder(self, path: str) -> Any:
        """The detector called `path`."""
        return _named(self.others, path, "grounder")

    def language(self, path: str) -> Any:
        """The language scorer called `path`."""
        return _named(self.others, path, "language model")

    def painter(self, path: str) -> Any:
        """The painter called `path`."""
        return _named(self.others, path, "painter")


def _named(models: Mapping[str, Any], path: str, kind: str) -> Any:
    if path not in models:
        known = ", ".join(sorted(models)) or "none"
        raise ModelError(f"no scripted {kind} called {path!r}; there are: {known}")
    return models[path]
