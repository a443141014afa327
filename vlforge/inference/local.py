"""Chat, captions and scores from model folders on this machine.

Importing this module does not import torch: a `LocalModels` travels to worker
processes that may never open a model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.types import (
    LLAVA_IMAGE_TOKEN,
    Caption,
    Captioner,
    Classifier,
    Embedder,
    EndpointSpec,
    Grounder,
    LanguageScorer,
    Loading,
    ModelError,
    Painter,
    Sample,
    Scorer,
    Turn,
    Writer,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.inference.generate import Decoding
    from vlforge.inference.load import Loaded
    from vlforge.inference.native import NativePrompt
    from vlforge.inference.prompts import Batches, Prompt

DESCRIBE = "Describe the picture."
"""What a chat model is asked for a caption when nobody says otherwise."""

SMALL_MODEL = 20_000_000
"""Parameters below which a second CPU thread slows decoding down (tenfold on a busy machine)."""

CAPTION_TOKENS = 128
"""Longest caption, as in Data-Juicer's captioning."""


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
    ):
        """Open `model`, a folder or one that `load_model` has opened (which settles the rest).

        `parts` are folders that a foreign layout leaves out.

        Raises:
            ModelError: no model there that answers questions.
        """
        from vlforge.inference.prompts import Batches

        if isinstance(model, str | Path):
            from vlforge.inference.load import load_model

            how = vars(loading)
            model = load_model(model, device, template=template, parts=parts, **how)
            set_threads(threads or (1 if _is_small(model) else 0))
        self.loaded = _with_language(model, "answer questions")
        self.batches = Batches(batch)
        self.how = {"temperature": temperature, "seed": seed}

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
        return self.answer_as(samples, decoding, range(len(samples)))

    def answer_as(
        self, samples: Sequence[Sample], decoding: Decoding, keys: Sequence[int]
    ) -> list[Caption]:
        """Answers drawn in a way of their own; `keys` are what each one's sampling depends on."""
        items = [(k, _prompt_of(self.loaded, s)) for k, s in zip(keys, samples, strict=True)]
        return [row[0] for row in _generate(self.loaded, self.batches, items, decoding)]

    def stream(self, sample: Sample, max_new_tokens: int) -> Iterator[str]:
        """Pieces of the answer that `answer` would give to this sample alone."""
        from vlforge.inference.generate import stream
        from vlforge.inference.prompts import embed, prompt_of

        decoding = self.loaded.decoding(max_new_tokens, **self.how)
        if self.loaded.kind == "native":
            from vlforge.inference.native import native_prompt
            from vlforge.inference.native_stream import native_stream

            yield from native_stream(self.loaded, native_prompt(self.loaded, sample), decoding)
            return
        (prompt,) = embed(self.loaded, [prompt_of(self.loaded, sample)])
        yield from stream(self.loaded.language, self.loaded.tokenizer, prompt, decoding)


class LocalCaptioner:
    """Writes captions with an opened model; a `Captioner`.

    The first candidate is the greedy caption, further ones are sampled at
    `temperature` from the picture's key. A prompt begins the caption where the
    template knows captions only (and is not repeated in it), and is the
    question where it knows conversations.
    """

    def __init__(self, loaded: Loaded, batch: int = 32, temperature: float = 1.0, seed: int = 0):
        from vlforge.inference.prompts import Batches

        self.loaded = _with_language(loaded, "write captions")
        self.batches = Batches(batch)
        self.how = {"temperature": temperature, "seed": seed}

    def caption(
        self,
        images: Sequence[Image],
        prompts: Sequence[str | None],
        count: int,
        keys: Sequence[int],
    ) -> list[list[Caption]]:
        """`count` candidates per image, greedy first."""
        items = [
            (key, self._prompt(image, prompt))
            for image, prompt, key in zip(images, prompts, keys, strict=True)
        ]
        greedy = self.loaded.decoding(CAPTION_TOKENS)
        made = _generate(self.loaded, self.batches, items, greedy)
        if count == 1:
            return made
        sampled = self.loaded.decoding(CAPTION_TOKENS, candidates=count - 1, **self.how)
        more = _generate(self.loaded, self.batches, items, sampled)
        return [first + others for first, others in zip(made, more, strict=True)]

    def _prompt(self, image: Image, prompt: str | None) -> Prompt | NativePrompt:
        from vlforge.inference.prompts import Prompt, prompt_of

        if self.loaded.kind == "native":
            from vlforge.inference.native import native_caption_prompt

            return native_caption_prompt(self.loaded, image, prompt, DESCRIBE)

        template = self.loaded.template
        speaks = template is None or template.words_from_user
        words = f"\n{prompt or DESCRIBE}" if speaks else ""
        # The path is a stand-in: the turn needs one picture, and the picture is here.
        sample = Sample("caption", ("",), (Turn("user", LLAVA_IMAGE_TOKEN + words),))
        ids = prompt_of(self.loaded, sample).ids
        if prompt and not speaks:
            ids += tuple(self.loaded.tokenizer.encode(prompt, add_special_tokens=False))
        return Prompt(ids, (image,))


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
        """The scorer in the folder `path`: by embedding, tags or likelihood, as the model can."""
        from vlforge.inference.score import local_scorer

        return local_scorer(self.loaded(path), self.batch)

    def embedder(self, path: str) -> Embedder:
        """The encoder of pictures and texts in the folder `path`."""
        from vlforge.inference.embedders import open_embedder

        return open_embedder(self, path)

    def writer(self, path: str | EndpointSpec) -> Writer:
        """What answers: a folder, the endpoint of that name, or the one told here."""
        from vlforge.inference.writers import open_writer

        return open_writer(self, path)

    def classifier(self, path: str) -> Classifier:
        """The picture or text classifier in the folder `path`."""
        from vlforge.inference.classifiers import open_classifier

        return open_classifier(self, path)

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


def _with_language(loaded: Loaded, use: str) -> Loaded:
    if loaded.kind not in ("family", "native"):
        raise ModelError(
            f"{loaded.path} holds a {loaded.kind} model, which cannot {use}; "
            "give the folder of a train stage"
        )
    return loaded


def _prompt_of(loaded: Loaded, sample: Sample) -> Prompt | NativePrompt:
    if loaded.kind == "native":
        from vlforge.inference.native import native_prompt

        return native_prompt(loaded, sample)
    from vlforge.inference.prompts import prompt_of

    return prompt_of(loaded, sample)


def _generate(
    loaded: Loaded,
    batches: Batches,
    items: Sequence[tuple[int, Prompt | NativePrompt]],
    decoding: Decoding,
) -> list[list[Caption]]:
    """Candidates per `(key, prompt)`."""
    from vlforge.inference.generate import generate
    from vlforge.inference.native import native_generate
    from vlforge.inference.prompts import embed

    def work(group: list[tuple[int, Any]]) -> list[list[Caption]]:
        keys, prompts = [key for key, _ in group], [prompt for _, prompt in group]
        if loaded.kind == "native":
            made = native_generate(loaded, prompts, decoding, keys)
        else:
            embeds = embed(loaded, prompts)
            made = generate(loaded.language, loaded.tokenizer, embeds, decoding, keys)
        return [[Caption(one.text, one.confidence) for one in row] for row in made]

    return batches.run(items, work, length=lambda item: len(item[1]))
