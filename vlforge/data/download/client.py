"""One GET request within limits: time for each step and in all, bytes, redirections, addresses."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from vlforge import __version__
from vlforge.data.download.addresses import (
    PRIVATE,
    Lookup,
    Refused,
    Target,
    joined,
    names_private,
    parse,
)
from vlforge.data.download.config import DownloadConfig

_CHUNK = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
"""Answers that may be other ones a moment later."""
_LONGEST_WAIT_S = 60.0
NO_ROBOTS = "Use of image disallowed by X-Robots-Tag directive"


class Client:
    """Fetches addresses; may be used by many threads."""

    def __init__(self, config: DownloadConfig):
        self.config = config
        self.lookup = Lookup(config.allow_private, max(config.thread_count, 1))
        self._proxies = _proxies()
        self._tls = ssl.create_default_context()
        if config.ignore_ssl_certificate:
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        self._directives = {word.lower() for word in config.disallowed_header_directives}
        self._agent = agent(config)

    def get(self, address: str) -> bytes:
        """The body of the answer; redirections are followed.

        Raises:
            Refused: there is none, with a short reason.
        """
        headers = {"Accept": "image/*,*/*;q=0.5"}
        with self.answered(address, headers, self.config.total_timeout) as answer, _reasons():
            return self._body(answer.raw)

    @contextlib.contextmanager
    def answered(
        self, address: str, headers: Mapping[str, str], total_s: float
    ) -> Iterator[Answer]:
        """The answer to a GET with further `headers`, its body unread; redirections are followed.

        Raises:
            Refused: nobody answers, with a short reason. What the block raises is left as it is.
        """
        deadline = time.monotonic() + total_s
        target = parse(address)
        seen = {target.url}
        for _ in range(self.config.max_redirects + 1):
            with contextlib.ExitStack() as stack:
                with _reasons():
                    line = stack.enter_context(self._connected(target, deadline))
                    raw = self._asked(target, line, headers)
                location = raw.headers.get("Location")
                if raw.status not in _REDIRECTS or location is None:
                    yield Answer(raw)
                    return
            target = joined(target, location)
            if target.url in seen:
                raise Refused("redirects in a circle")
            seen.add(target.url)
        raise Refused(f"more than {self.config.max_redirects} redirects")

    def check(self, address: str) -> None:
        """Nothing, where the address may be asked at all.

        Raises:
            Refused: no address, or a private one.
        """
        self._places(parse(address), time.monotonic() + self._connect_s)

    def close(self) -> None:
        """Let go of the threads that look up names."""
        self.lookup.close()

    @contextlib.contextmanager
    def _connected(self, target: Target, deadline: float) -> Iterator[_Line]:
        """A line to the server, or to the proxy that the environment names."""
        places, proxy = self._places(target, deadline)
        plain = self._first_open(places, deadline)
        try:
            if target.scheme == "https":
                if proxy is not None:
                    self._tunnel(plain, target, deadline)
                plain.settimeout(self._step(deadline, self._connect_s))
                plain = self._tls.wrap_socket(plain, server_hostname=target.host)
            yield _Line(plain, deadline, self._read_s, via=proxy is not None)
        finally:
            plain.close()

    def _places(
        self, target: Target, deadline: float
    ) -> tuple[list[tuple[int, Any]], tuple[str, int] | None]:
        """Where to connect to, and the proxy if that is one."""
        proxy = self._proxy_of(target)
        if proxy is None:
            wait_s = min(self._connect_s, deadline - time.monotonic())
            return self.lookup.places(target.host, target.port, wait_s), None
        if not self.config.allow_private and names_private(target.host):
            raise Refused(PRIVATE)
        return [(0, proxy)], proxy

    def _first_open(self, places: list[tuple[int, Any]], deadline: float) -> socket.socket:
        failure: OSError = ConnectionError()
        for family, place in places:
            try:
                step = self._step(deadline, self._connect_s)
                if not family:
                    return socket.create_connection(place, step)
                opened = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                failure = error
                continue
            try:
                opened.settimeout(step)
                opened.connect(place)
                return opened
            except OSError as error:
                opened.close()
                failure = error
        raise failure

    def _tunnel(self, plain: socket.socket, target: Target, deadline: float) -> None:
        line = _Line(plain, deadline, self._read_s)
        host = f"[{target.host}]" if ":" in target.host else target.host
        line.sendall(f"CONNECT {host}:{target.port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(line, method="CONNECT")  # type: ignore[arg-type]
        answer.begin()
        if answer.status != 200:
            raise Refused(f"proxy says {answer.status}", is_final=False)

    def _asked(
        self, target: Target, line: _Line, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        """The head of the answer to a GET."""
        is_whole = line.via and target.scheme == "http"
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"GET {target.url if is_whole else target.path} HTTP/1.1\r\n"
            f"Host: {target.authority}\r\nUser-Agent: {self._agent}\r\n"
            f"{more}Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
        )
        line.sendall(head.encode("ascii", "replace"))
        answer = http.client.HTTPResponse(line, method="GET")  # type: ignore[arg-type]
        answer.begin()
        return answer

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        if not 200 <= answer.status < 300:
            raise http_error(answer)
        if self._directives and self._is_disallowed(answer.headers):
            raise Refused(NO_ROBOTS)
        most = self.config.max_bytes
        if (answer.length or 0) > most:
            raise Refused(f"more than {most} bytes")
        held = bytearray()
        while piece := answer.read1(_CHUNK):
            held += piece
            if len(held) > most:
                raise Refused(f"more than {most} bytes")
        if answer.length:
            raise ConnectionError
        if not held:
            raise Refused("empty answer", is_final=False)
        return bytes(held)

    def _is_disallowed(self, headers: http.client.HTTPMessage) -> bool:
        """Whether an X-Robots-Tag for all or for our token says no."""
        token = self.config.user_agent_token.strip().lower()
        for value in headers.get_all("X-Robots-Tag", []):
            name, colon, words = str(value).lower().partition(":")
            meant = not colon or name.strip() == token
            said = {word.strip() for word in (words if colon else name).split(",")}
            if meant and said & self._directives:
                return True
        return False

    def _proxy_of(self, target: Target) -> tuple[str, int] | None:
        found = self._proxies.get(target.scheme)
        if found is None or urllib.request.proxy_bypass(target.host):
            return None
        return found

    @property
    def _connect_s(self) -> float:
        return self.config.connect_timeout or self.config.timeout

    @property
    def _read_s(self) -> float:
        return self.config.read_timeout or self.config.timeout

    def _step(self, deadline: float, most: float) -> float:
        left = min(most, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError
        return left


def picture_client(
    *, allow_private: bool, most_bytes: int, time_s: float, threads: int = 1
) -> Client:
    """A client for pictures that somebody names in a conversation.

    Args:
        allow_private: also from this machine and from private networks.
        most_bytes: of one picture.
        time_s: the longest that one picture may take.
        threads: that ask at the same time.
    """
    return Client(
        DownloadConfig(
            allow_private=allow_private,
            max_bytes=most_bytes,
            max_redirects=3,
            timeout=time_s / 2,
            total_timeout=time_s,
            thread_count=threads,
            disallowed_header_directives=(),
        )
    )


class Answer:
    """The head of an answer, and its body piece by piece."""

    def __init__(self, raw: http.client.HTTPResponse):
        self.raw, self.status, self.headers = raw, raw.status, raw.headers

    def read(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            Refused: the line broke before the end.
        """
        with _reasons():
            piece = self.raw.read1(_CHUNK)
            if not piece and self.raw.length:
                raise ConnectionError
            return piece

    def fault(self) -> Refused:
        """Why this is no answer."""
        return http_error(self.raw)


def agent(config: DownloadConfig) -> str:
    """The User-Agent header."""
    own = f"Mozilla/5.0 (compatible; vlforge/{__version__})"
    text = own if config.user_agent == "auto" else config.user_agent
    if config.user_agent_token:
        text += f" (compatible; {config.user_agent_token.strip().lower()})"
    return re.sub(r"[^\x20-\x7e]", "", text)


def _proxies() -> dict[str, tuple[str, int]]:
    """Host and port of the environment's proxies by scheme."""
    found = {}
    for scheme, address in urllib.request.getproxies().items():
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if scheme in ("http", "https") and parts.hostname:
            found[scheme] = (parts.hostname, parts.port or 80)
    return found


class _Line:
    """A socket as `HTTPResponse` wants it: no wait is longer than allowed, nor all together."""

    def __init__(self, plain: socket.socket, deadline: float, read_s: float, via: bool = False):
        self._plain, self._deadline, self._read_s, self.via = plain, deadline, read_s, via

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What arrives."""
        return io.BufferedReader(_Arriving(self), _CHUNK)

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._wait()
        self._plain.sendall(data)

    def receive(self, into: Any) -> int:
        """Fill `into` with what has arrived; how much."""
        self._wait()
        return self._plain.recv_into(into)

    def _wait(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._plain.settimeout(min(left, self._read_s))


class _Arriving(io.RawIOBase):
    def __init__(self, line: _Line):
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        return self._line.receive(into)


def http_error(answer: http.client.HTTPResponse) -> Refused:
    """Why an answer other than 2xx is none, and for how long to wait."""
    said = re.sub(r"[^\x20-\x7e]", "", answer.reason or "")[:60].strip()
    is_passing = answer.status in _PASSING
    wait = (answer.headers.get("Retry-After") or "").strip()
    wait_s = min(float(wait), _LONGEST_WAIT_S) if re.fullmatch(r"[0-9]{1,9}", wait) else 0
    return Refused(f"HTTP Error {answer.status}: {said}", is_final=not is_passing, wait_s=wait_s)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns the many errors of a connection into few reasons."""
    try:
        yield
    except Refused:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _refused(error) from None


_KNOWN: tuple[tuple[type[Exception], str, bool], ...] = (
    (TimeoutError, "timed out", False),
    (ssl.SSLCertVerificationError, "certificate not trusted", True),
    (ssl.SSLError, "no secure connection", True),
    (ConnectionRefusedError, "connection refused", False),
    (ConnectionError, "connection dropped", False),
    (http.client.IncompleteRead, "connection dropped", False),
    (http.client.HTTPException, "broken answer", False),
    (ValueError, "broken answer", False),
)


def _refused(error: Exception) -> Refused:
    for kind, reason, is_final in _KNOWN:
        if isinstance(error, kind):
            return Refused(reason, is_final=is_final)
    return Refused(str(getattr(error, "strerror", None) or error)[:80], is_final=False)
