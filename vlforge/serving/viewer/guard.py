"""Who may ask the local server, and what a page that it serves may do."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_OWN_SITE = ("same-origin", "none", "")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_own_host(header: str, *, is_open: bool) -> bool:
    """Whether a `Host` header names this server, not a name that somebody pointed at it.

    A page elsewhere can make its own name resolve to 127.0.0.1, and would then
    be of the same origin. Loopback addresses and `localhost` are ours; where the
    server `is_open` to other machines, any bare address and this machine's name.
    """
    name = _name_of(header)
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return is_open and name in {socket.gethostname().lower(), socket.getfqdn().lower()}
    return is_open or address.is_loopback


def _name_of(header: str) -> str:
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


class Guard:
    """Refuses foreign hosts and foreign pages; adds the headers to every answer."""

    def __init__(self, app: App, *, is_open: bool):
        self._app = app
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        fault = self._fault({key.lower(): value for key, value in scope["headers"]})
        if not fault:
            await self._app(scope, receive, send_guarded)
            return
        head = [(b"content-type", b"text/plain; charset=utf-8")]
        await send_guarded({"type": "http.response.start", "status": 403, "headers": head})
        await send_guarded({"type": "http.response.body", "body": fault.encode()})

    def _fault(self, headers: dict[bytes, bytes]) -> str:
        host = headers.get(b"host", b"").decode("latin-1")
        if not is_own_host(host, is_open=self._is_open):
            return f"this server does not answer to the name {host[:100]!r}"
        if headers.get(b"sec-fetch-site", b"").decode("latin-1") in _OWN_SITE:
            return ""
        is_page = headers.get(b"sec-fetch-mode") == b"navigate"
        return "" if is_page else "asked by another site"
