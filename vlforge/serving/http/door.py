"""Who may ask: the key, pages of other sites, and requests that come while the server ends."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from vlforge.serving.http.limits import Fault
from vlforge.serving.viewer.guard import App, Message, Receive, Scope, Send, is_own_host

OPEN = ("/health",)
"""Paths that tell nothing and need no key."""
_OWN_SITE = ("same-origin", "none", "")


class Door:
    """Lets requests in, or refuses them in OpenAI's words.

    Args:
        key: what `Authorization: Bearer …` has to hold; "": nothing.
        is_local: the server is for this machine alone; pages of other sites that a browser
            here shows, and names that somebody pointed at it, are then refused.
        drain: bytes of a refused request that are read, so that its client reads the answer.
        refused: told of the status of each that was refused.
    """

    def __init__(
        self,
        app: App,
        *,
        key: str,
        is_local: bool,
        drain: int,
        refused: Callable[[int], None] = lambda status: None,
    ):
        self._app, self._key = app, key.encode()
        self._is_local, self._drain, self._refused = is_local, drain, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}
        fault = self._fault(scope["path"], headers)
        if fault is None:
            await self._app(scope, receive, send)
            return
        self._refused(fault.status)
        await read_off(receive, self._drain)
        await send_fault(send, fault)

    def _fault(self, path: str, headers: Mapping[bytes, bytes]) -> Fault | None:
        if not self._key:
            return self._foreign(headers) if self._is_local else None
        if path in OPEN:
            return None
        word, _, given = headers.get(b"authorization", b"").strip().partition(b" ")
        is_bearer = word.lower() == b"bearer"
        # The same time for every key that is none of ours.
        if hmac.compare_digest(given.strip() if is_bearer else b"", self._key):
            return None
        what = "this is not the server's key" if given else "no key given"
        return Fault(401, f"{what}; send Authorization: Bearer KEY", code="invalid_api_key")

    def _foreign(self, headers: Mapping[bytes, bytes]) -> Fault | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if not is_own_host(host, is_open=False):
            return Fault(403, f"this server does not answer to the name {host[:100]!r}")
        origin = headers.get(b"origin", b"").decode("latin-1").partition("//")[2]
        is_own = headers.get(b"sec-fetch-site", b"").decode("latin-1") in _OWN_SITE
        if not is_own or (origin and not is_own_host(origin, is_open=False)):
            return Fault(403, "asked by a page of another site")
        return None


async def read_off(receive: Receive, most: int, wait_s: float = 10.0) -> None:
    """Read what a client still sends: one that is cut off may never see the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await _read_on(receive, most)


async def _read_on(receive: Receive, most: int) -> None:
    size = 0
    while size <= most:
        message: Message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return
        size += len(message.get("body", b""))


async def send_fault(send: Send, fault: Fault) -> None:
    """The answer to a request that gets none."""
    data = json.dumps(fault.body(), ensure_ascii=False).encode()
    head: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(data)).encode()),
    ]
    head += [(key.encode(), value.encode()) for key, value in fault.headers().items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": head})
    await send({"type": "http.response.body", "body": data})
