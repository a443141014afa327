"""Answers on their way out: whole or in pieces, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlforge.serving.http.limits import Fault
from vlforge.serving.talking import Full, Request
from vlforge.serving.viewer.guard import Receive
from vlforge.types import Piece, VLForgeError

_LEFT = Piece(0, "", "stopped")


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def pieces(
    requests: Sequence[Request], receive: Receive, until: float
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of all choices as they come, each with its choice's number, until all have ended.

    However it ends, the requests are left: what nobody reads is not drawn on.

    Args:
        receive: the connection, which tells when the client hangs up.
        until: when to give up, by the running loop's clock.

    Raises:
        ClientLeft: the client hung up.
        Fault: the request is refused, the time is over, or the model failed.
    """
    loop = asyncio.get_running_loop()
    coming: asyncio.Queue[Any] = asyncio.Queue()

    def tell(item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(coming.put_nowait, item)

    for number, request in enumerate(requests):
        job = (number, request, tell)
        threading.Thread(target=_pump, args=job, daemon=True, name="answer").start()
    watch = loop.create_task(_watch(receive, coming))
    left = len(requests)
    try:
        while left:
            async with asyncio.timeout_at(until):
                number, piece = await coming.get()
            piece = _checked(piece)
            yield number, piece
            left -= bool(piece.ended)
    except TimeoutError:
        raise Fault(504, "the answer took longer than this server allows; ask for fewer "
                    "tokens", code="timeout") from None  # fmt: skip
    finally:
        watch.cancel()
        for request in requests:
            request.leave()
            request.pieces.put(_LEFT)  # frees the thread that waits for more


def _pump(number: int, request: Request, tell: Any) -> None:
    while True:
        piece = request.pieces.get()
        tell((number, piece))
        if isinstance(piece, Exception) or piece.ended:
            return


async def _watch(receive: Receive, coming: asyncio.Queue[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    coming.put_nowait((0, ClientLeft()))


def _checked(piece: Any) -> Piece:
    """The piece, unless it is none."""
    if isinstance(piece, ClientLeft):
        raise piece
    if isinstance(piece, Full):
        raise Fault(503, str(piece), code="closing", wait_s=5)
    if isinstance(piece, Exception):
        raise piece
    if piece.ended == "refused":
        is_long = "too long" in piece.text or "tokens, and" in piece.text
        code = "context_length_exceeded" if is_long else "refused_by_model"
        raise Fault(400, piece.text, param="messages", code=code)
    if piece.ended == "stopped":
        raise Fault(503, "the server stopped before the answer was done", code="closing", wait_s=5)
    return piece  # type: ignore[no-any-return]


def fault_of(error: Exception) -> Fault:
    """What a client is told of an error; of ours that are no one-line message only the kind."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, VLForgeError):
        return Fault(500, f"the model could not answer: {error}", code="model_error")
    return Fault(500, f"the server failed ({type(error).__name__})", code="internal_error")


@dataclass
class Told:
    """What an answer came to: text, end and tokens of each choice, and when it began."""

    model: str
    choices: int
    made: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    texts: list[list[str]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    first_at: float = 0.0

    def __post_init__(self) -> None:
        self.texts = [[] for _ in range(self.choices)]
        self.ends = [""] * self.choices

    def add(self, number: int, piece: Piece) -> None:
        """Take note of a piece."""
        self.first_at = self.first_at or time.monotonic()
        self.texts[number].append(piece.text)
        if piece.ended:
            self.ends[number] = piece.ended
            self.tokens_in = max(self.tokens_in, piece.tokens_in)
            self.tokens_out += piece.tokens_out

    @property
    def usage(self) -> dict[str, int]:
        """Tokens; the prompt's count once."""
        total = self.tokens_in + self.tokens_out
        return {
            "prompt_tokens": self.tokens_in,
            "completion_tokens": self.tokens_out,
            "total_tokens": total,
        }

    def whole(self) -> dict[str, Any]:
        """The body of an answer in one."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": "".join(texts), "refusal": None},
                "logprobs": None,
                "finish_reason": self.ends[number],
            }
            for number, texts in enumerate(self.texts)
        ]
        return self._head("chat.completion") | {"choices": choices, "usage": self.usage}

    def begin(self, *, tells_usage: bool) -> bytes:
        """The first events of a stream: who speaks."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._event(n, delta, None, tells_usage) for n in range(self.choices))

    def event(self, number: int, piece: Piece, *, tells_usage: bool) -> bytes:
        """A piece as events of a stream."""
        data = b""
        if piece.text:
            data = self._event(number, {"content": piece.text}, None, tells_usage)
        return data + (self._event(number, {}, piece.ended, tells_usage) if piece.ended else b"")

    def end(self, *, tells_usage: bool) -> bytes:
        """The last events of a stream."""
        found = b""
        if tells_usage:
            head = self._head("chat.completion.chunk")
            found = sse(head | {"choices": [], "usage": self.usage})
        return found + b"data: [DONE]\n\n"

    def _event(self, number: int, delta: dict[str, Any], end: str | None, usage: bool) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": end}
        told = self._head("chat.completion.chunk") | {"choices": [choice]}
        return sse(told | ({"usage": None} if usage else {}))

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.made, "model": self.model}


def sse(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
