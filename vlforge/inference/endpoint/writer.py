"""A model behind an endpoint as operators know it: it answers requests, many side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from vlforge.inference.endpoint.chat import request_of
from vlforge.inference.endpoint.client import Endpoint
from vlforge.inference.endpoint.config import ChatRequest, Reply
from vlforge.types import LLAVA_IMAGE_TOKEN, Caption, Drawing, ModelError, Refusal, Sample

UNREADABLE, UNFIT = "picture cannot be read", "model cannot take the request"
NO_REPLY = "no reply"
"""Reasons of refusals."""


class EndpointWriter:
    """Answers with a model behind an endpoint; a `Writer`.

    Sampling sends a seed made of the request's key, so that the same run asks the same and
    finds its replies kept. Nothing is known of probabilities: every confidence is 0.
    """

    translates = False

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def write(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> list[list[Caption] | Refusal]:
        """`drawing.candidates` answers per sample, in order, or why there is none.

        Raises:
            EndpointError: what every request would get: a wrong key, no such model, a server
                that answers nobody, a budget that is spent.
            ModelError: a way of drawing that servers do not have.
        """
        name = self.endpoint.spec.model
        if drawing.beams > 1:
            raise ModelError(f"{name}: an endpoint searches no beams; leave num_beams at 1")
        if drawing.candidates > 1 and drawing.temperature <= 0:
            raise ModelError(
                f"{name}: {drawing.candidates} greedy candidates would be equal; give a "
                "temperature above 0"
            )
        found: list[list[Caption] | Refusal] = [_fault(sample) or [] for sample in samples]
        asked = [
            (at, candidate)
            for at, one in enumerate(found)
            if not isinstance(one, Refusal)
            for candidate in range(drawing.candidates)
        ]
        replies = self.endpoint.ask_all(_Requests(samples, keys, asked, drawing))
        for (at, _), reply in zip(asked, replies, strict=True):
            row = found[at]
            if isinstance(row, Refusal):
                continue
            if isinstance(reply, Reply):
                row.append(Caption(reply.text.strip(), 0.0))
            else:
                found[at] = Refusal(UNREADABLE if reply.is_of_data else NO_REPLY, str(reply))
        return found


class _Requests(Sequence[ChatRequest]):
    """Requests that are made when their turn comes, pictures and all."""

    def __init__(
        self,
        samples: Sequence[Sample],
        keys: Sequence[int],
        asked: Sequence[tuple[int, int]],
        drawing: Drawing,
    ):
        self.samples, self.keys, self.asked, self.drawing = samples, keys, asked, drawing

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, place: Any) -> Any:
        at, candidate = self.asked[place]
        drawing = self.drawing
        return request_of(
            self.samples[at],
            drawing.max_new_tokens,
            temperature=drawing.temperature,
            top_p=drawing.top_p,
            seed=seed_of(self.keys[at], candidate) if drawing.temperature > 0 else None,
            stop=drawing.stop,
            needs_words=True,
        )


def seed_of(key: int, candidate: int) -> int:
    """31 bits that servers take as a seed."""
    if candidate:
        digest = hashlib.blake2b(f"{key}:{candidate}".encode(), digest_size=8).digest()
        key = int.from_bytes(digest)
    return (key ^ key >> 31 ^ key >> 62) & 0x7FFFFFFF


def _fault(sample: Sample) -> Refusal | None:
    marks = sum(turn.text.count(LLAVA_IMAGE_TOKEN) for turn in sample.turns)
    count = len(sample.images)
    if count and marks != count:
        return Refusal(UNFIT, f"{marks} {LLAVA_IMAGE_TOKEN} and {count} pictures")
    return None
