"""MiniGPT-4's demo: its defaults, its stop tokens, its cut of long conversations.

`LocalChat` talks to the same models greedily; here answers are drawn as the demo
draws them (nucleus of 0.9, or beams that sample), by transformers' own `generate`.

L prompt positions, D width.
Source: Vision-CAIR/MiniGPT-4@22d8888 (conversation.py, Chat.answer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import StoppingCriteria, StoppingCriteriaList

from vlforge.inference.load import Loaded
from vlforge.inference.prompts import embed, prompt_of
from vlforge.text.minigpt4_templates import clean_answer
from vlforge.types import ModelError, Sample


@dataclass(frozen=True)
class DemoSettings:
    """How the demo draws an answer; `max_length` is what prompt and answer may take together."""

    max_new_tokens: int = 300
    beams: int = 1
    sample: bool = True
    temperature: float = 1.0
    top_p: float = 0.9
    min_length: int = 1
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    max_length: int = 2000

    def arguments(self) -> dict[str, Any]:
        """For transformers' `generate`."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p} if self.sample else {}
        return drawn | {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.beams,
            "do_sample": self.sample,
            "min_length": self.min_length,
            "repetition_penalty": self.repetition_penalty,
            "length_penalty": self.length_penalty,
        }


@dataclass(frozen=True)
class Reply:
    """An answer; `dropped` positions of a long conversation were cut off at its start."""

    text: str
    ids: tuple[int, ...]
    dropped: int = 0


class StopOnIds(StoppingCriteria):
    """A row ends where its last ids are one of `stops`."""

    def __init__(self, stops: Sequence[Sequence[int]]):
        self.stops = [torch.tensor(list(stop)) for stop in stops]

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Which rows are done, [B]."""
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for stop in self.stops:
            if input_ids.shape[1] >= len(stop):
                done |= (input_ids[:, -len(stop) :] == stop.to(input_ids.device)).all(1)
        return done


def stop_ids(tokenizer: Any, text: str = "###") -> list[list[int]]:
    """The ids that `text` has at the start of an answer and behind a word.

    With Llama's tokenizer [835] and [2277, 29937], which the demo has as numbers.
    """
    word = tokenizer.encode("a", add_special_tokens=False)
    behind = tokenizer.encode("a" + text, add_special_tokens=False)
    found = [tokenizer.encode(text, add_special_tokens=False)]
    if behind[: len(word)] == word:
        found.append(behind[len(word) :])
    return found


def demo_answer(
    loaded: Loaded,
    sample: Sample,
    settings: DemoSettings | None = None,
    stops: Sequence[Sequence[int]] | None = None,
) -> Reply:
    """What the demo would answer; seed torch before for the same answer again.

    Args:
        stops: ids that end an answer; None: those of `###` in this model's tokenizer.

    Raises:
        DataError: turns that the template cannot hold.
        ModelError: not a model that answers questions.
    """
    (prompt,) = embed(loaded, [prompt_of(loaded, sample)])
    stops = stop_ids(loaded.tokenizer) if stops is None else stops
    return demo_reply(loaded.language, loaded.tokenizer, prompt, settings, stops)


@torch.inference_mode()
def demo_reply(
    language: Any,
    tokenizer: Any,
    prompt: Tensor,
    settings: DemoSettings | None = None,
    stops: Sequence[Sequence[int]] = (),
) -> Reply:
    """The answer to a prompt that is embedded already.

    A prompt that leaves no room for the answer loses its start, the first tokens
    and perhaps a part of the picture, as in the demo; `Reply.dropped` says so.

    Args:
        prompt: input embeddings [L, D].
    """
    how = settings or DemoSettings()
    begin = max(0, len(prompt) + how.max_new_tokens - how.max_length)
    if begin >= len(prompt):
        raise ModelError(
            f"max_new_tokens {how.max_new_tokens} leaves no room for a prompt in "
            f"{how.max_length} positions; ask for fewer"
        )
    kept = prompt[begin:][None]
    ids = language.generate(
        inputs_embeds=kept,
        attention_mask=torch.ones(kept.shape[:2], dtype=torch.long, device=kept.device),
        stopping_criteria=StoppingCriteriaList([StopOnIds(stops)]),
        pad_token_id=tokenizer.eos_token_id,
        **how.arguments(),
    )[0].tolist()
    for unsaid in (0, tokenizer.bos_token_id):
        if ids and ids[0] == unsaid:
            ids = ids[1:]
    text = clean_answer(tokenizer.decode(ids, skip_special_tokens=True))
    return Reply(text, tuple(ids), begin)
