"""Opening addresses on the web: http and https only, and by default nothing on private networks.

Every connection is checked after its name was looked up, also those that
redirections lead to, so that no address in a dataset reaches what only this
machine can see.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from vlforge import __version__
from vlforge.data.download.addresses import is_public, names_private
from vlforge.ops.files.transfer import CHUNK, FetchError


class _Answer:
    """The body of an answer, until a point in time."""

    def __init__(self, response: Any, deadline: float):
        self._response, self._deadline = response, deadline
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isascii() and length.isdigit() else None

    def read(self) -> bytes:
        """What has arrived, at most `CHUNK`."""
        if time.monotonic() > self._deadline:
            raise FetchError("timed out")
        with _reasons():
            piece: bytes = self._response.read1(CHUNK)
        return piece


@contextlib.contextmanager
def open_url(address: str, timeout: float, allow_private: bool) -> Iterator[_Answer]:
    """The answer to a GET request; redirections are followed.

    Args:
        timeout: seconds for each step of the connection, and for the whole body.
        allow_private: whether addresses of this machine and of private networks count.

    Raises:
        FetchError: there is none, with a short reason.
    """
    deadline = time.monotonic() + timeout
    with _reasons():
        request = urllib.request.Request(quoted(address), headers={"User-Agent": _agent()})
        response = _opener(allow_private).open(request, timeout=timeout)
    with response:
        yield _Answer(response, deadline)


def quoted(address: str) -> str:
    """An address that may be sent: http or https, other characters than ASCII encoded."""
    try:
        parts = urlsplit(address.strip())
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except (ValueError, UnicodeError):
        raise FetchError("not an address") from None
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise FetchError("not http or https")
    if parts.username is not None:
        raise FetchError("address holds a user name")
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return urlunsplit((parts.scheme.lower(), host + port, path, query, ""))


@functools.cache
def _opener(allow_private: bool) -> urllib.request.OpenerDirector:
    """Knows http, https, redirections and the proxies of the environment, and nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Http(allow_private),
        _Https(allow_private),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Http(urllib.request.HTTPHandler):
    def __init__(self, allow_private: bool):
        super().__init__()
        self.allow_private = allow_private

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_maker(http.client.HTTPConnection, req, self.allow_private), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, allow_private: bool):
        super().__init__(context=ssl.create_default_context())
        self.allow_private = allow_private

    def https_open(self, req: urllib.request.Request) -> Any:
        make = _maker(http.client.HTTPSConnection, req, self.allow_private)
        return self.do_open(make, req, context=self._context)  # type: ignore[attr-defined]


def _maker(kind: Any, request: urllib.request.Request, allow_private: bool) -> Any:
    """Makes the connection for a request, checked unless everything is allowed.

    A proxy connects in our place: then only the name itself can be checked.
    """
    if allow_private:
        return kind
    if request.has_proxy() or getattr(request, "_tunnel_host", None):
        _check_name(urlsplit(request.full_url).hostname or "")
        return kind

    def make(host: str, **options: Any) -> Any:
        connection = kind(host, **options)
        connection._create_connection = _connected
        return connection

    return make


def _connected(address: tuple[str, int], timeout: float, _source: Any = None) -> socket.socket:
    """A connection to the first public address behind a name."""
    host, port = address
    failure: Exception = FetchError("unknown host")
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not is_public(str(place[0])):
            failure = FetchError("a private address: allow_private: true would reach it")
            continue
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(place)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


def _check_name(host: str) -> None:
    if names_private(host.strip("[]")):
        raise FetchError("a private address: allow_private: true would reach it")


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns the many errors of a connection into short reasons."""
    try:
        yield
    except FetchError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        raise FetchError(f"HTTP {error.code}") from None
    except urllib.error.URLError as error:
        cause = error.reason
        raise cause if isinstance(cause, FetchError) else FetchError(_reason(cause)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(_reason(error)) from None


def _reason(error: object) -> str:
    known = (
        (TimeoutError, "timed out"),
        (socket.gaierror, "unknown host"),
        (ssl.SSLError, "no trusted connection"),
        (ConnectionError, "no connection"),
        (http.client.HTTPException, "broken answer"),
    )
    for kind, reason in known:
        if isinstance(error, kind):
            return reason
    return str(getattr(error, "strerror", None) or error)[:80]


def _agent() -> str:
    return f"vlforge/{__version__}"
