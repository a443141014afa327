"""Answers for many who wait for them, piece by piece: what chat, pages and servers draw through.

`LocalSpeaker` puts requests into one batch and gives each its words as they are drawn, the
words that `LocalWriter` and `LocalChat` give for the same drawing and key.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.inference.endpoint.writer import seed_of
from vlforge.inference.writers import TOO_LONG, Asked, asked, decoding_of, with_opened
from vlforge.types import (
    DataError,
    Drawing,
    EndpointSpec,
    Loading,
    ModelError,
    Piece,
    Refusal,
    Sample,
    Turn,
    VLForgeError,
)

if TYPE_CHECKING:
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.inference.endpoint.client import Endpoint
    from vlforge.inference.generate import Decoding, Generated, Told
    from vlforge.inference.load import Loaded
    from vlforge.inference.local import LocalChat

NO_ROOM = (
    "the GPU has no memory left for this request; ask for fewer tokens or pictures, or load the "
    "model in 8bit or 4bit"
)


def open_speaker(
    model: str | Path | EndpointSpec,
    *,
    device: str = "auto",
    threads: int = 0,
    template: str = "auto",
    system: str = "",
    batch: int = 8,
    loading: Loading = Loading(),
    parts: Parts | None = None,
    adapter: str | Path | None = None,
) -> LocalSpeaker | EndpointSpeaker:
    """What answers: a model folder in any layout, or a server.

    Args:
        threads: of torch; 0 is one for a small model and torch's own choice for another.
        template: of conversations; "auto" is the model's own.
        system: what stands before every conversation that says nothing itself.
        batch: most answers that are drawn side by side.
        parts: folders that a foreign layout leaves out (`checkpoints.checkpoint.Parts`).
        adapter: what was trained on `model` and is put into it: LoRA, what XTuner's LLaVA
            trained, or a whole language model in place of the model's own.

    Raises:
        ModelError: no model there that answers questions.
        RecipeError: an address that is none.
    """
    if isinstance(model, EndpointSpec):
        from vlforge.inference.endpoint.client import Endpoint

        return EndpointSpeaker(Endpoint(model), system)
    from vlforge.inference.local import LocalChat

    if adapter is not None:
        from vlforge.inference.adapted import load_adapted

        loaded = load_adapted(
            model, adapter, device, template=template, parts=parts, loading=loading
        )
        return LocalSpeaker(loaded, batch, system)
    chat = LocalChat(
        model, device=device, threads=threads, template=template, loading=loading, parts=parts
    )
    return LocalSpeaker(chat, batch, system)


@dataclass(eq=False)
class _Row:
    """One request of a batch: what it asks, how much has been shown, whether it is over."""

    place: int
    ask: Asked
    shown: int = 0
    is_over: bool = False

    def piece(self, told: Told, skipped: int) -> Piece | None:
        """The piece for who asked; None while a batch that is drawn anew catches up."""
        text = told.text[skipped:]
        self.shown += len(text)
        if told.made is None:
            return Piece(self.place, text) if text else None
        self.is_over = True
        made = told.made
        ended = "stop" if made.is_finished else "length"
        return Piece(self.place, text, ended, made.tokens_in, made.tokens_out)  # type: ignore

    def refused(self, why: str) -> Piece:
        """The only piece of a request without an answer."""
        self.is_over = True
        return Piece(self.place, why, "refused")


class LocalSpeaker:
    """Answers many with an opened model, piece by piece; a `serving.talking.Speaker`.

    One thread at a time may use it. A GPU whose memory a batch does not fit gets smaller
    ones from then on; answers that had begun go on where they were.
    """

    def __init__(self, model: LocalChat | Loaded, batch: int = 8, system: str = ""):
        """Speak with `model`; `system` stands before conversations without a system turn.

        Raises:
            ModelError: it does not answer questions, or the batch is no number of requests.
        """
        from vlforge.inference.answers import with_words

        if batch < 1:
            raise ModelError(f"batch is {batch}; give at least 1")
        opened: Any = getattr(model, "loaded", model)  # of a chat that has opened it
        self.loaded: Loaded = with_words(opened, "answer questions")
        self.batch, self.system = batch, system

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the model as it was loaded, a line each."""
        return self.loaded.notes

    @property
    def sees(self) -> bool:
        """Whether it takes pictures."""
        return self.loaded.kind != "language"

    def asked(self, sample: Sample, key: int) -> Asked:
        """A request as the model takes it, pictures still closed.

        Raises:
            ModelError: pictures for a model without eyes.
        """
        return asked(self.loaded, sample, key)

    def stream_many(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> Iterator[Piece]:
        """Pieces of all answers, each with its request's place; the last says how it ended.

        One answer per request, whatever `drawing.candidates` says.

        Raises:
            ModelError: a drawing that no model can do.
        """
        decoding = decoding_of(self.loaded, replace(drawing, candidates=1))
        rows = []
        for place, (sample, key) in enumerate(zip(samples, keys, strict=True)):
            try:
                rows.append(_Row(place, self.asked(with_system(sample, self.system), key)))
            except VLForgeError as error:
                yield Piece(place, str(error), "refused")
        while rows:
            group, rows = rows[: self.batch], rows[self.batch :]
            opened = with_opened(self.loaded, [row.ask for row in group])
            for row, one in zip(group, opened, strict=True):
                row.ask = one
                if isinstance(one.prompt, Refusal):
                    yield row.refused(told_why(one.prompt))
            yield from self._answer([row for row in group if not row.is_over], decoding)

    def _answer(self, group: list[_Row], decoding: Decoding) -> Iterator[Piece]:
        """One batch; a request that the model cannot take is refused, the others go on."""
        import torch

        from vlforge.inference.generate import LengthError

        waiting = [group] if group else []
        while waiting:
            part = waiting.pop(0)
            try:
                yield from self._pieces(part, decoding)
                continue
            except LengthError as error:
                for at, length in error.lengths.items():
                    room = f"{length} tokens, and the model takes {error.limit}"
                    why = f"{TOO_LONG}: {room}; shorten it or show fewer pictures"
                    yield part[at].refused(why)
                split = len(part)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                split = max(1, len(part) // 2)
                self.batch = min(self.batch, split)
                if len(part) == 1:
                    yield part[0].refused(NO_ROOM)
            except (DataError, ModelError) as error:
                split = 1
                if len(part) == 1:
                    yield part[0].refused(str(error))
            left = [row for row in part if not row.is_over]
            waiting = [left[at : at + split] for at in range(0, len(left), split)] + waiting

    def _pieces(self, part: list[_Row], decoding: Decoding) -> Iterator[Piece]:
        """The pieces of a batch; where it is drawn again, those that are new."""
        before = [row.shown for row in part]
        made = [0] * len(part)
        prompts, keys = [row.ask.prompt for row in part], [row.ask.key for row in part]
        for told in streamed(self.loaded, prompts, decoding, keys):
            skipped = min(len(told.text), max(0, before[told.place] - made[told.place]))
            made[told.place] += len(told.text)
            piece = part[told.place].piece(told, skipped)
            if piece is not None:
                yield piece


def streamed(
    loaded: Loaded, prompts: Sequence[Any], decoding: Decoding, keys: Sequence[int]
) -> Iterator[Told]:
    """What `answers.drawn` draws, piece by piece where the kind of model lets it.

    Raises:
        LengthError: prompts that the model has no room for.
    """
    from vlforge.inference.answers import drawn
    from vlforge.inference.blip2 import blip2_embed, is_blip2
    from vlforge.inference.generate import Told, stream_many
    from vlforge.inference.native_stream import native_stream_many
    from vlforge.inference.prompts import embed
    from vlforge.inference.text_models import takes_embeddings

    language = loaded.language
    if loaded.kind == "native" and not is_blip2(loaded.model):
        yield from native_stream_many(loaded, prompts, decoding, keys)
        return
    if loaded.kind == "native":
        language = loaded.model.language_model
        embeds = None if language.config.is_encoder_decoder else blip2_embed(loaded, prompts)
    elif loaded.kind == "language" and not takes_embeddings(loaded.model):
        embeds = None
    else:
        embeds = embed(loaded, prompts)
    if embeds is not None:
        yield from stream_many(language, loaded.tokenizer, embeds, decoding, keys)
        return
    rows: list[list[Generated]] = drawn(loaded, prompts, decoding, keys)
    for place, row in enumerate(rows):
        yield Told(place, row[0].text, row[0])


def with_system(sample: Sample, system: str) -> Sample:
    """The conversation with a system turn before it, unless it has one of its own."""
    if not system or (sample.turns and sample.turns[0].role == "system"):
        return sample
    return replace(sample, turns=(Turn("system", system), *sample.turns))


def told_why(refusal: Refusal) -> str:
    """A refusal as one line."""
    return f"{refusal.reason}: {refusal.detail}" if refusal.detail else refusal.reason


class EndpointSpeaker:
    """Answers with a model behind an endpoint; a `serving.talking.Speaker`.

    One request alone is streamed; several are asked side by side, an answer a piece.
    Tokens are not counted. Sampling sends the seed that `EndpointWriter` sends.
    """

    notes: tuple[str, ...] = ()
    sees = True

    def __init__(self, endpoint: Endpoint, system: str = ""):
        self.endpoint, self.system = endpoint, system

    def stream_many(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> Iterator[Piece]:
        """Pieces of all answers; one without a reply is refused and says why.

        Raises:
            ModelError: beams, which servers do not search.
        """
        if drawing.beams > 1:
            name = self.endpoint.spec.model
            raise ModelError(f"{name}: an endpoint searches no beams; leave beams at 1")
        pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        is_left = threading.Event()
        for place, (sample, key) in enumerate(zip(samples, keys, strict=True)):
            job = (place, with_system(sample, self.system), drawing, key, pieces, is_left)
            threading.Thread(target=self._ask, args=job, daemon=True, name="asking").start()
        left = len(samples)
        try:
            while left:
                piece = pieces.get()
                left -= bool(piece.ended)
                yield piece
        finally:
            is_left.set()

    def _ask(
        self,
        place: int,
        sample: Sample,
        drawing: Drawing,
        key: int,
        pieces: queue.SimpleQueue[Piece],
        is_left: threading.Event,
    ) -> None:
        """Put one answer's pieces into the queue."""
        from vlforge.inference.endpoint.chat import request_of

        try:
            request = request_of(
                sample,
                drawing.max_new_tokens,
                temperature=drawing.temperature,
                top_p=drawing.top_p,
                seed=seed_of(key, 0) if drawing.temperature > 0 else None,
                stop=drawing.stop,
            )
            blank = None  # outer space is no part of an answer
            for text in self.endpoint.stream(request):
                if is_left.is_set():
                    return
                words = text.lstrip() if blank is None else blank + text
                said = words.rstrip()
                blank = words[len(said) :] if said or blank is not None else None
                pieces.put(Piece(place, said))
            pieces.put(Piece(place, "", "stop"))
        except Exception as error:  # whatever it is, it is the asker's to hear
            pieces.put(Piece(place, str(error), "refused"))
