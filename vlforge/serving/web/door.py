"""Who may come in: pages of this server only, and where a login is wanted, who knows it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from vlforge.serving.viewer.guard import App, Message, Receive, Scope, Send

COOKIE = "vlforge_web"
FREE = ("/static/web.css", "/static/login.js", "/api/login")
"""What is given without a login; `/` is the page to log in with."""
_READING = ("GET", "HEAD")
_DAY_S = 86400.0
_TRIES, _TRIES_S = 8, 60.0
_MOST = 10_000


@dataclass
class Login:
    """A name and a password, and who has given them.

    Wrong guesses are counted for each address: after eight it waits a minute.
    """

    user: str
    password: str = field(repr=False)
    clock: Callable[[], float] = time.monotonic
    _tokens: OrderedDict[str, float] = field(default_factory=OrderedDict, repr=False)
    _tries: OrderedDict[str, list[float]] = field(default_factory=OrderedDict, repr=False)

    def enter(self, user: str, password: str, address: str) -> str | None:
        """A token for the cookie; None for a wrong name or password, "" for too many tries."""
        now = self.clock()
        tries = [at for at in self._tries.pop(address, []) if now - at < _TRIES_S]
        if len(tries) >= _TRIES:
            self._tries[address] = tries
            return ""
        # Both are compared, always whole: the time taken says nothing of either.
        is_right = hmac.compare_digest(_digest(user), _digest(self.user)) & hmac.compare_digest(
            _digest(password), _digest(self.password)
        )
        if not is_right:
            self._tries[address] = [*tries, now]
            _shorten(self._tries)
            return None
        token = secrets.token_urlsafe(32)
        self._tokens[_digest(token).hex()] = now + _DAY_S
        _shorten(self._tokens)
        return token

    def knows(self, cookies: str) -> bool:
        """Whether a `Cookie` header holds a token that was given here, within the day."""
        for part in cookies.split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                return self._tokens.get(_digest(value).hex(), 0.0) > self.clock()
        return False

    def cookie(self, token: str) -> str:
        """The header that gives a browser its token."""
        return f"{COOKIE}={token}; Path=/; Max-Age={int(_DAY_S)}; HttpOnly; SameSite=Strict"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _shorten(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > _MOST:
        kept.popitem(last=False)


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a request's `Origin` is the server that it asks.

    Browsers leave `Sec-Fetch-Site` out where a page comes over plain http from another
    machine; `Origin` they always send with what is not just read.
    """
    return not origin or urlsplit(origin).netloc.lower() == host.lower()


class Door:
    """Turns away writing from foreign pages and, with a login, whoever has not logged in."""

    def __init__(self, app: App, login: Login | None):
        self._app, self._login = app, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        is_writing = scope["method"] not in _READING
        origin, host = headers.get(b"origin", ""), headers.get(b"host", "")
        if is_writing and not is_same_origin(origin, host):
            await _refuse(send, 403, "asked by another site")
            return
        is_known = self._login is None or self._login.knows(headers.get(b"cookie", ""))
        if is_known or scope["path"] in FREE:
            await self._app(scope, receive, send)
        elif scope["path"] == "/" and not is_writing:
            await self._app({**scope, "path": "/login"}, receive, send)
        else:
            await _refuse(send, 401, "log in first: load this page again")


async def _refuse(send: Send, status: int, why: str) -> None:
    head = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    start: Message = {"type": "http.response.start", "status": status, "headers": head}
    await send(start)
    body = b'{"detail": "%s"}' % why.encode()
    await send({"type": "http.response.body", "body": body})
