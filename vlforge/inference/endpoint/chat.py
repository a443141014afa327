"""A model behind an endpoint as everything here knows a model: it answers samples."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vlforge.inference.endpoint.client import Endpoint, EndpointError
from vlforge.inference.endpoint.config import ChatRequest, Reply
from vlforge.types import LLAVA_IMAGE_TOKEN, Caption, DataError, Sample, Turn

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
LARGEST_SENT = 8 << 20
"""Bytes of a picture that is sent as it is; larger ones become JPEGs of `LONGEST_SIDE`."""
LONGEST_SIDE = 2048


class EndpointChat:
    """Answers with a model behind an endpoint; a `Chat`.

    Nothing is known of probabilities there: every confidence is 0.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, endpoint: Endpoint, *, temperature: float = 0.0, seed: int | None = None):
        self.endpoint = endpoint
        self.how: dict[str, Any] = {"temperature": temperature, "seed": seed}

    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[Caption]:
        """One answer per sample, in order.

        Raises:
            EndpointError: a sample got none; those that did are in the cache.
        """
        requests = [request_of(sample, max_new_tokens, **self.how) for sample in samples]
        found = self.endpoint.ask_all(requests)
        answers = []
        for sample, reply in zip(samples, found, strict=True):
            if not isinstance(reply, Reply):
                raise EndpointError(f"{sample.id}: {reply}")
            answers.append(Caption(reply.text.strip(), 0.0))
        return answers

    def answer_each(
        self,
        samples: Sequence[Sample],
        max_new_tokens: int,
        done: Callable[[int, Caption | EndpointError], None],
    ) -> None:
        """Ask many side by side; `done` is told of each, by its place, as its answer comes.

        A request is made when its turn comes: no more pictures are held than are under way.

        Raises:
            EndpointError: one that no further request would escape.
        """

        def tell(place: int, reply: Reply | EndpointError) -> None:
            is_reply = isinstance(reply, Reply)
            done(place, Caption(reply.text.strip(), 0.0) if is_reply else reply)  # type: ignore

        self.endpoint.ask_all(_Requests(samples, max_new_tokens, self.how), tell)

    def stop(self) -> None:
        """Begin no further request."""
        self.endpoint.stop()

    def stream(self, sample: Sample, max_new_tokens: int) -> Iterator[str]:
        """Pieces of the answer as they come."""
        yield from self.endpoint.stream(request_of(sample, max_new_tokens, **self.how))


class _Requests(Sequence[ChatRequest]):
    """Requests that are made when they are read."""

    def __init__(self, samples: Sequence[Sample], max_tokens: int, how: dict[str, Any]):
        self.samples, self.max_tokens, self.how = samples, max_tokens, how

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: Any) -> Any:
        return request_of(self.samples[place], self.max_tokens, **self.how)


def request_of(sample: Sample, max_tokens: int, **settings: Any) -> ChatRequest:
    """A sample's turns as the API's messages, each picture where its mark stands.

    Raises:
        DataError: another number of marks than of pictures, or one that cannot be read.
    """
    pictures = iter(sample.images)
    messages = []
    try:
        for turn in sample.turns:
            content = _content(turn, pictures) if sample.images else turn.text
            messages.append({"role": turn.role, "content": content})
    except StopIteration:
        raise DataError(f"{sample.id}: more <image> than pictures") from None
    if next(pictures, None) is not None:
        raise DataError(f"{sample.id}: more pictures than <image>")
    return ChatRequest(tuple(messages), max_tokens, **settings)


def _content(turn: Turn, pictures: Iterator[str | bytes]) -> Any:
    texts = turn.text.split(LLAVA_IMAGE_TOKEN)
    if len(texts) == 1:
        return turn.text
    parts: list[dict[str, Any]] = []
    for place, text in enumerate(texts):
        if place:
            picture = next(pictures)
            parts.append({"type": "image_url", "image_url": {"url": data_address(picture)}})
        if text.strip():
            parts.append({"type": "text", "text": text.strip("\n")})
    return parts


def data_address(picture: str | bytes) -> str:
    """A picture as a `data:` address: its own bytes where servers take them, else a JPEG.

    What the file says about being turned is done here: servers do not agree on it.

    Raises:
        DataError: it cannot be read, or is cut off.
    """
    from vlforge.data.images import ImageFile

    is_given = not isinstance(picture, str)
    file = ImageFile("<bytes>", picture) if is_given else ImageFile(picture)  # type: ignore
    data = file.content()
    shown = file.picture()
    kind = next((kind for head, kind in _KINDS.items() if data.startswith(head)), None)
    if kind is None or len(data) > LARGEST_SENT or shown.upright is not shown.stored:
        kind, data = "jpeg", _as_jpeg(shown.upright)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _as_jpeg(image: Any) -> bytes:
    from vlforge.data.images import to_rgb

    image = to_rgb(image)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
