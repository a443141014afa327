"""One connection to an endpoint: a POST within a deadline, kept open for the next."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from vlforge import __version__
from vlforge.types import RecipeError

LARGEST_REPLY = 16 << 20
_CHUNK = 1 << 16


class Lost(Exception):
    """No whole answer came; another try may get one."""


class Line:
    """Posts JSON to one server; one thread uses it. A broken connection is opened anew.

    Args:
        url: the endpoint's address up to `/v1`.
        key: bearer token, or "".

    Raises:
        RecipeError: an address that is none or holds a secret, or a key that is none.
    """

    def __init__(self, url: str, key: str, timeout_s: float):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RecipeError(f"{url!r} is no address of an endpoint; give http(s)://HOST/v1")
        if parts.username or parts.password or parts.query:
            raise RecipeError(
                f"the address of {parts.hostname} holds a name, a password or a query; a key "
                "belongs into the environment variable that key_env names"
            )
        if not (key.isascii() and key.isprintable()):
            raise RecipeError(
                f"the key for {parts.hostname} holds characters that no key has; set it again"
            )
        self._secrets = sorted({key.encode(), json.dumps(key)[1:-1].encode()} - {b""}, key=len)
        self.secure = parts.scheme == "https"
        self.host, self.port = parts.hostname, parts.port or (443 if self.secure else 80)
        self.base = parts.path.rstrip("/")
        self.timeout_s = timeout_s
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "User-Agent": f"vlforge/{__version__}",
        } | ({"Authorization": f"Bearer {key}"} if key else {})
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer.

        Raises:
            Lost: nobody answers in time, or not to the end.
        """
        deadline = time.monotonic() + self.timeout_s
        answer = self._asked(path, body)
        data = self._plain(b"".join(self._read(answer, deadline)))
        return answer.status, dict(answer.headers.items()), data

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer.

        Raises:
            Lost: nobody answers, or the status is no success.
        """
        answer = self._asked(path, body)
        deadline = time.monotonic() + self.timeout_s
        if answer.status != 200:
            data = self._plain(b"".join(self._read(answer, deadline)))
            raise Lost(f"{answer.status} {data[:200].decode('utf-8', 'replace')}")
        rest = b""
        for block in self._read(answer, deadline):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and line[5:].strip() not in (b"", b"[DONE]"):
                    yield _event(line[5:])

    def _plain(self, data: bytes) -> bytes:
        """An answer without the key, which some servers repeat in what they complain of."""
        for secret in reversed(self._secrets):
            data = data.replace(secret, b"***")
        return data

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _asked(self, path: str, body: Mapping[str, Any]) -> http.client.HTTPResponse:
        # Half a surrogate pair, which JSON files can hold, is no text that can be sent.
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        for is_last in (False, True):
            is_fresh = self._connection is None
            connection = self._connection = self._connection or self._opened()
            try:
                connection.request("POST", self.base + path, data, self._headers)
                return connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A server may have hung up on an idle line; a fresh one is tried once.
                if is_fresh or is_last or isinstance(error, TimeoutError):
                    raise Lost(_say(error)) from None
        raise AssertionError("unreachable")

    def _read(self, answer: http.client.HTTPResponse, deadline: float) -> Iterator[bytes]:
        size = 0
        try:
            while block := answer.read1(_CHUNK):
                size += len(block)
                if size > LARGEST_REPLY or time.monotonic() > deadline:
                    what = "is too large" if size > LARGEST_REPLY else "takes too long"
                    raise Lost(f"the answer {what}")
                yield block
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Lost(_say(error)) from None
        except Lost:
            self.close()
            raise
        answer.close()  # read1 does not, and the next request would not go out
        if answer.will_close:
            self.close()

    def _opened(self) -> http.client.HTTPConnection:
        host, port, tunnel = self.host, self.port, None
        proxy = urllib.request.getproxies().get("https" if self.secure else "http")
        if proxy and not urllib.request.proxy_bypass(self.host):
            parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            host, port, tunnel = parts.hostname or host, parts.port or 80, (self.host, self.port)
        if self.secure:
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=self.timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        if tunnel:
            connection.set_tunnel(*tunnel)
        return connection


def _event(data: bytes) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(data)
    except ValueError:
        raise Lost("the stream holds a broken event") from None
    return event


def _say(error: Exception) -> str:
    if isinstance(error, TimeoutError | socket.timeout):
        return "timed out"
    return f"{type(error).__name__}: {error}"[:200]
