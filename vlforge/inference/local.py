"""Chat, captions and scores from model folders on this machine.

Importing this module does not import torch: a `LocalModels` travels to worker
processes that may never open a model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.types import (
    Caption,
    Captioner,
    Classifier,
    Embedder,
    EndpointSpec,
    Grounder,
    Head,
    LanguageScorer,
    Loading,
    Painter,
    Sample,
    Scorer,
    Writer,
)

if TYPE_CHECKING:
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.inference.endpoint.client import Endpoint
    from vlforge.inference.endpoint.config import Usage
    from vlforge.inference.generate import Decoding
    from vlforge.inference.load import Loaded

SMALL_MODEL = 20_000_000
"""Parameters below which a second CPU thread slows decoding down (tenfold on a busy machine)."""

PATIENCE = 24
"""Requests in a row without a reply after which nobody asks a server on."""


class LocalChat:
    """Answers questions with a model folder; a `Chat`.

    Greedy by default; `temperature` above 0 samples, each sample by its place in
    the call, whatever the batch. `threads` 0 is one thread for a small model and
    torch's own choice for any other.
    """

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        device: str = "auto",
        threads: int = 0,
        template: str = "auto",
        batch: int = 32,
        loading: Loading = Loading(),
        temperature: float = 0.0,
        seed: int = 0,
        parts: Parts | None = None,
        stop: tuple[str, ...] = (),
    ):
        """Open `model`, a folder or one that `load_model` has opened (which settles the rest).

        `parts` are folders that a foreign layout leaves out. `stop` ends answers, too.

        Raises:
            ModelError: no model there that answers questions.
        """
        from vlforge.inference.answers import with_words
        from vlforge.inference.prompts import Batches

        if isinstance(model, str | Path):
            from vlforge.inference.load import load_model

            how = vars(loading)
            model = load_model(model, device, template=template, parts=parts, **how)
            set_threads(threads or (1 if _is_small(model) else 0))
        self.loaded = with_words(model, "answer questions")
        self.batches = Batches(batch)
        self.how = {"temperature": temperature, "seed": seed}
        self.stop = stop

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the model as it was loaded, a line each."""
        return self.loaded.notes

    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[Caption]:
        """One answer per sample with its confidence, in order; no matter how they are batched.

        Raises:
            DataError: turns or pictures that cannot be used.
            ModelError: a conversation longer than the model takes.
        """
        decoding = self.loaded.decoding(max_new_tokens, **self.how)
        decoding = replace(decoding, stop_strings=(*decoding.stop_strings, *self.stop))
        return self.answer_as(samples, decoding, range(len(samples)))

    def answer_as(
        self, samples: Sequence[Sample], decoding: Decoding, keys: Sequence[int]
    ) -> list[Caption]:
        """Answers drawn in a way of their own; `keys` are what each one's sampling depends on."""
        from vlforge.inference.answers import draw_all, prompt_for

        items = [(k, prompt_for(self.loaded, s)) for k, s in zip(keys, samples, strict=True)]
        return [row[0] for row in draw_all(self.loaded, self.batches, items, decoding)]

    def stream(self, sample: Sample, max_new_tokens: int) -> Iterator[str]:
        """Pieces of the answer that `answer` would give to this sample alone."""
        from vlforge.inference.answers import prompt_for
        from vlforge.inference.generate import stream
        from vlforge.inference.prompts import embed
        from vlforge.inference.text_models import takes_embeddings

        decoding = self.loaded.decoding(max_new_tokens, **self.how)
        if self.loaded.kind == "native":
            from vlforge.inference.native import native_prompt
            from vlforge.inference.native_stream import native_stream

            yield from native_stream(self.loaded, native_prompt(self.loaded, sample), decoding)
            return
        if self.loaded.kind == "language" and not takes_embeddings(self.loaded.model):
            yield self.answer_as([sample], decoding, [0])[0].text
            return
        (prompt,) = embed(self.loaded, [prompt_for(self.loaded, sample)])
        yield from stream(self.loaded.language, self.loaded.tokenizer, prompt, decoding)


@dataclass
class LocalModels:
    """Opens the models that operators name, each once per process; a `ModelSource`.

    Travels to workers as its settings; each worker opens its own copies. `endpoints` are
    servers by the names that operators may give in place of a folder; `replies` is the file
    that keeps what they answered ("": only while this process lives).
    """

    device: str = "auto"
    threads: int = 1
    batch: int = 32
    loading: Loading = field(default_factory=Loading)
    temperature: float = 1.0
    seed: int = 0
    endpoints: Mapping[str, EndpointSpec] = field(default_factory=dict)
    replies: str = ""
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def captioner(self, path: str) -> Captioner:
        """The captioner in the folder `path`, or behind the endpoint of that name."""
        from vlforge.inference.captioners import open_captioner

        return open_captioner(self, path)

    def scorer(self, path: str) -> Scorer:
        """The scorer in the folder `path`: embedding, matching, tags or likelihood, as it can."""
        from vlforge.inference.score import open_scorer

        return open_scorer(self, path)

    def embedder(self, path: str) -> Embedder:
        """The encoder of pictures and texts in the folder `path`."""
        from vlforge.inference.embedders import open_embedder

        return open_embedder(self, path)

    def writer(self, path: str | EndpointSpec) -> Writer:
        """What answers: a folder, the endpoint of that name, or the one told here."""
        from vlforge.inference.writers import open_writer

        return open_writer(self, path)

    def endpoint(self, spec: EndpointSpec) -> Endpoint:
        """The client of a server, one for all who ask it; replies of all are kept in one file."""
        from vlforge.inference.endpoint.cache import ReplyCache
        from vlforge.inference.endpoint.client import Endpoint

        def opened() -> Endpoint:
            file = Path(self.replies) if self.replies else None
            cache = self.keep(("replies",), lambda: ReplyCache(file))
            return Endpoint(spec, cache, patience=max(PATIENCE, 3 * spec.concurrency))

        found: Endpoint = self.keep(("endpoint", spec), opened)
        return found

    def spent(self) -> dict[str, Usage]:
        """What asking took so far, by the model's name at its server; workers tell their own."""
        found: dict[str, Usage] = {}
        for endpoint in self._endpoints():
            name, used = endpoint.spec.model, endpoint.usage
            found[name] = found[name] + used if name in found else used
        return found

    def usage(self) -> list[str]:
        """The same as lines for people, one for each server that was asked."""
        return [one.told() for one in self._endpoints() if one.usage != type(one.usage)()]

    def _endpoints(self) -> list[Endpoint]:
        kept = self._kept.items()
        return [made for key, made in kept if isinstance(key, tuple) and key[0] == "endpoint"]

    def classifier(self, path: str) -> Classifier:
        """The picture or text classifier in the folder `path`."""
        from vlforge.inference.classifiers import open_classifier

        return open_classifier(self, path)

    def head(self, path: str) -> Head:
        """What judges embeddings: a file of weights, or a folder of encoder and head."""
        from vlforge.inference.heads import open_head

        return open_head(self, path)

    def grounder(self, path: str) -> Grounder:
        """The open-vocabulary detector in the folder `path`."""
        from vlforge.inference.grounding import open_grounder

        return open_grounder(self, path)

    def language(self, path: str) -> LanguageScorer:
        """The language model in the folder `path`, to score with."""
        from vlforge.inference.language_scores import open_language

        return open_language(self, path)

    def painter(self, path: str) -> Painter:
        """The diffusion model in the folder `path`."""
        from vlforge.inference.painting import open_painter

        return open_painter(self, path)

    def loaded(self, path: str) -> Loaded:
        """The model in the folder `path`, opened once."""
        from vlforge.inference.load import load_model

        def opened() -> Loaded:
            set_threads(self.threads)
            return load_model(path, self.device, **vars(self.loading))

        found: Loaded = self.keep(("loaded", path), opened)
        return found

    def keep(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gave when `key` was first asked for."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


def set_threads(threads: int) -> None:
    """Let torch use so many threads in this process; 0 leaves its choice."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def _is_small(loaded: Loaded) -> bool:
    """Whether threads would wait for each other longer than they work."""
    return sum(weight.numel() for weight in loaded.model.parameters()) < SMALL_MODEL
