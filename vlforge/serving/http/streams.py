"""Answers that are sent while they are made, as server-sent events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from vlforge.serving.http.replies import ClientLeft, sse
from vlforge.types import Piece

if TYPE_CHECKING:
    from vlforge.serving.http.app import Visit

_GRACE_S = 5.0
"""Behind a request's time, for the event that says it is over."""


class Stream(Response):
    """Sends an answer's pieces as they come, the one that has come already first.

    What goes wrong on the way is the last event; a client that hangs up ends the answer.
    """

    media_type = "text/event-stream"

    def __init__(self, visit: Visit, first: tuple[int, Piece], coming: Any):
        told = visit.told.id
        super().__init__(
            headers={"cache-control": "no-store", "x-accel-buffering": "no", "x-request-id": told}
        )
        del self.headers["content-length"]
        self._visit, self._first, self._coming = visit, first, coming

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send all of it."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            async with asyncio.timeout_at(self._visit.until + _GRACE_S), aclosing(self._coming):
                await send(head)
                await self._send(send)
        except (ClientLeft, TimeoutError, OSError):
            return
        finally:
            self._visit.close(499)  # unless its end was reached

    async def _send(self, send: Any) -> None:
        visit, told, status = self._visit, self._visit.told, 200
        how = {"tells_usage": visit.tells_usage}
        number, piece = self._first
        await _put(send, told.begin(**how) + told.event(number, piece, **how))
        try:
            async for number, piece in self._coming:
                await _put(send, told.event(number, piece, **how))
            await _put(send, told.end(**how))
        except (ClientLeft, OSError):
            raise
        except Exception as error:  # the status is out: only an event can still tell
            fault = visit.fault(error)
            status = fault.status
            await _put(send, sse(fault.body()))
        visit.close(status)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _put(send: Any, data: bytes) -> None:
    if data:
        await send({"type": "http.response.body", "body": data, "more_body": True})
