"""The answer of a model of transformers' own, piece by piece as its `generate` draws it.

`generate` does not yield, so it runs in a thread and hands its tokens over.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vlforge.inference.generate import Decoding, Generated, held_back
from vlforge.inference.native import NativePrompt, run_native

if TYPE_CHECKING:
    from vlforge.inference.load import Loaded


def native_stream(
    loaded: Loaded, prompt: NativePrompt, decoding: Decoding, key: int = 0
) -> Iterator[str]:
    """Pieces of one answer; together they are the text of `native_generate`.

    An answer that nobody reads on is not drawn on. Beams give theirs as one piece.
    """
    if decoding.beams > 1:
        yield from filter(None, [run_native(loaded, [prompt], decoding, [key])[0][0].text])
        return
    run = _Run(loaded, prompt, decoding, key)
    thread = threading.Thread(target=run.work, daemon=True)
    thread.start()
    ids: list[int] = []
    shown = ""
    try:
        while (token := run.tokens.get()) is not None:
            ids.append(token)
            if run.is_over(ids):
                break
            text = held_back(loaded.tokenizer.decode(ids, skip_special_tokens=True), decoding)
            if len(text) > len(shown) and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
    finally:
        run.is_stopped.set()
        thread.join()
    if run.error is not None:
        raise run.error
    if run.answer is not None:
        yield from filter(None, [run.answer.text[len(shown) :]])


class _Run(BaseStreamer, StoppingCriteria):
    """One call of `generate`: takes its tokens, and ends it where the answer ends."""

    def __init__(self, loaded: Loaded, prompt: NativePrompt, decoding: Decoding, key: int):
        self.loaded, self.prompt, self.decoding, self.key = loaded, prompt, decoding, key
        self.tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.is_stopped = threading.Event()
        self.answer: Generated | None = None
        self.error: Exception | None = None
        self.seen_prompt = False
        self.drawn: list[int] = []

    def work(self) -> None:
        """Draw the answer; whatever goes wrong is for the reader."""
        how = {"streamer": self, "stopping_criteria": StoppingCriteriaList([self])}
        try:
            made = run_native(self.loaded, [self.prompt], self.decoding, [self.key], **how)
            self.answer = made[0][0]
        except Exception as error:
            self.error = error
        self.tokens.put(None)

    def put(self, value: Any) -> None:
        """Tokens drawn; the first call brings the prompt."""
        if self.seen_prompt:
            self.drawn += value.flatten().tolist()
            self.tokens.put(self.drawn[-1])
        self.seen_prompt = True

    def end(self) -> None:
        """`work` tells the reader, once the answer is settled."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row ends here, [1]."""
        ends = self.is_stopped.is_set() or self.is_over(self.drawn)
        return input_ids.new_full((len(input_ids),), ends, dtype=bool)

    def is_over(self, ids: list[int]) -> bool:
        """Whether an answer of these tokens ends with the last."""
        if ids and ids[-1] in self.decoding.eos_ids:
            return True
        if not self.decoding.stop_strings:
            return False
        window = max(map(len, self.decoding.stop_strings)) + 8
        tail = self.loaded.tokenizer.decode(ids[-window:], skip_special_tokens=False)
        return any(stop in tail for stop in self.decoding.stop_strings)
