"""Answers of a model of transformers' own, piece by piece as its `generate` draws them.

`generate` does not yield, so it runs in a thread and hands its tokens over.

B rows.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from vlforge.inference.generate import Decoding, Generated, Growing, LengthError, Told, byte_ids
from vlforge.inference.image_to_text import ends_of, words_apart
from vlforge.inference.native import NativePrompt, run_native

if TYPE_CHECKING:
    from vlforge.inference.load import Loaded


def native_stream(
    loaded: Loaded, prompt: NativePrompt, decoding: Decoding, key: int = 0
) -> Iterator[str]:
    """Pieces of one answer; together they are the text of `native_generate`.

    An answer that nobody reads on is not drawn on. Beams give theirs as one piece.
    """
    for told in native_stream_many(loaded, [prompt], decoding, [key]):
        yield from filter(None, [told.text])


def native_stream_many(
    loaded: Loaded, prompts: Sequence[NativePrompt], decoding: Decoding, keys: Sequence[int]
) -> Iterator[Told]:
    """The same of several prompts, in one batch where the model takes them together.

    Raises:
        LengthError: prompts that the model has no room for; answers may have come before.
    """
    for places in words_apart(loaded.model, [prompt.text for prompt in prompts]):
        some, theirs = [prompts[n] for n in places], [keys[n] for n in places]
        try:
            for told in _together(loaded, some, decoding, theirs):
                yield told._replace(place=places[told.place])
        except LengthError as error:
            lengths = {places[place]: length for place, length in error.lengths.items()}
            raise LengthError(lengths, error.limit) from None


def _together(
    loaded: Loaded, prompts: list[NativePrompt], decoding: Decoding, keys: list[int]
) -> Iterator[Told]:
    if decoding.beams > 1:
        for place, (made,) in enumerate(run_native(loaded, prompts, decoding, keys)):
            yield Told(place, made.text, made)
        return
    run = _Run(loaded, prompts, decoding, keys)
    thread = threading.Thread(target=run.work, daemon=True)
    thread.start()
    bytes_known = byte_ids(loaded.tokenizer)
    growing = [Growing(bytes_known) for _ in prompts]
    try:
        while (tokens := run.tokens.get()) is not None:
            for place, ids in tokens.items():
                text = growing[place].more(ids, loaded.tokenizer, run.decoding)
                yield from [Told(place, text)] if text else []
    finally:
        run.is_stopped.set()
        thread.join()
    if run.error is not None:
        raise run.error
    for place, made in enumerate(run.answers):
        yield Told(place, growing[place].rest(made), made)


class _Run(StoppingCriteria):
    """One call of `generate`: takes its tokens, and ends each row where its answer ends."""

    def __init__(
        self, loaded: Loaded, prompts: list[NativePrompt], decoding: Decoding, keys: list[int]
    ):
        self.loaded, self.prompts, self.asked, self.keys = loaded, prompts, decoding, keys
        self.decoding = ends_of(loaded, decoding)[0]
        self.tokens: queue.SimpleQueue[dict[int, list[int]] | None] = queue.SimpleQueue()
        self.is_stopped = threading.Event()
        self.answers: list[Generated] = []
        self.error: Exception | None = None
        self.drawn: dict[int, list[int]] = {place: [] for place in range(len(prompts))}
        """Tokens of the answers that go on."""

    def work(self) -> None:
        """Draw the answers; whatever goes wrong is for the reader."""
        how = {"stopping_criteria": StoppingCriteriaList([self])}
        try:
            made = run_native(self.loaded, self.prompts, self.asked, self.keys, **how)
            self.answers = [row[0] for row in made]
        except Exception as error:
            self.error = error
        self.tokens.put(None)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row ends here, [B]."""
        for place, token in enumerate(input_ids[:, -1].tolist()):
            if place in self.drawn:
                self.drawn[place].append(token)
                if self._is_over(self.drawn[place]):
                    del self.drawn[place]
        self.tokens.put({place: list(ids) for place, ids in self.drawn.items()})
        is_stopped = self.is_stopped.is_set()
        ends = [is_stopped or place not in self.drawn for place in range(len(input_ids))]
        return torch.tensor(ends, device=input_ids.device)

    def _is_over(self, ids: list[int]) -> bool:
        """Whether an answer of these tokens ends with the last."""
        if ids[-1] in self.decoding.eos_ids:
            return True
        if not self.decoding.stop_strings:
            return False
        window = max(map(len, self.decoding.stop_strings)) + 8
        tail = self.loaded.tokenizer.decode(ids[-window:], skip_special_tokens=False)
        return any(stop in tail for stop in self.decoding.stop_strings)
