"""Which addresses on the web may be asked: http and https, and by default nothing private.

A name is looked up once, what it stands for is checked, and the connection goes
to what was checked: a name that changes its meaning in between gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LookupTimeout
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal")
_MAX_LENGTH = 16_384
_KEPT_S = 300.0
_MOST_NAMES = 20_000

Place = tuple[int, Any]
"""Address family, and what `socket.connect` takes."""


class Refused(Exception):
    """An address that is not asked, or an answer that is not there: a short reason.

    `is_final` says that asking again would not help; `wait_s` for how long the
    server wants to be left alone.
    """

    def __init__(self, reason: str, *, is_final: bool = True, wait_s: float = 0):
        super().__init__(reason)
        self.is_final, self.wait_s = is_final, wait_s


@dataclass(frozen=True, slots=True)
class Target:
    """An address that may be sent: host and path are ASCII without blanks."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address."""
        return f"{self.scheme}://{self.authority}{self.path}"


_PORTS = {"http": 80, "https": 443}


def parse(address: str) -> Target:
    """The parts of an address.

    Raises:
        Refused: not http or https, no host, or user names in it.
    """
    if len(address) > _MAX_LENGTH:
        raise Refused("address is too long")
    try:
        parts = urlsplit(address.strip())
        scheme, host = parts.scheme.lower(), parts.hostname or ""
        port = parts.port if parts.port is not None else _PORTS.get(scheme, 0)
        if ":" not in host:
            host = _ascii_name(host)
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~[]|") or "/"
        query = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]|")
    except (ValueError, UnicodeError):
        raise Refused("not an address") from None
    if scheme not in _PORTS:
        raise Refused("not http or https")
    if not host or not port:
        raise Refused("not an address")
    if parts.username is not None:
        raise Refused("address holds a user name")
    return Target(scheme, host, port, f"{path}?{query}" if query else path)


def _ascii_name(host: str) -> str:
    """The name as it is looked up. Underscores, which IDNA refuses, are in use."""
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    if any(char <= " " or char in "\x7f/\\%" for char in name):
        raise ValueError(name)
    return name


def joined(target: Target, location: str) -> Target:
    """Where a redirection leads to.

    Raises:
        Refused: as `parse` does.
    """
    try:
        return parse(urljoin(target.url, location.strip()))
    except ValueError:
        raise Refused("not an address") from None


def is_public(address: str) -> bool:
    """Whether an IP address is one that all the world may reach."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64 or ip in _COMPATIBLE:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


def names_private(host: str) -> bool:
    """Whether the name alone shows that it is private: all that is known where a proxy connects."""
    name = host.lower().rstrip(".")
    try:
        return not is_public(name)
    except ValueError:
        pass
    try:
        return not is_public(socket.inet_ntoa(socket.inet_aton(name)))
    except OSError:
        return name.endswith(_LOCAL_NAMES)


PRIVATE = "a private address: allow_private would reach it"


@dataclass
class Lookup:
    """Names looked up, each once in a while, by threads that may hang without hanging others."""

    allow_private: bool
    threads: int
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _asked: dict[tuple[str, int], tuple[float, Future[list[Place]]]] = field(
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="lookup")

    def places(self, host: str, port: int, wait_s: float) -> list[Place]:
        """Where to connect to, at least one.

        Raises:
            Refused: the name stands for nothing, or for nothing public.
        """
        future = self._future(host, port)
        try:
            found = future.result(max(wait_s, 0))
        except LookupTimeout:
            raise Refused("timed out looking up the name", is_final=False) from None
        except socket.gaierror as error:
            self._forget(host, port)
            is_final = error.errno != socket.EAI_AGAIN
            reason = "name not known" if is_final else "name lookup failed for now"
            raise Refused(reason, is_final=is_final) from None
        except (OSError, UnicodeError, ValueError):
            raise Refused("not an address") from None
        kept = [place for place in found if self.allow_private or is_public(str(place[1][0]))]
        if not kept:
            raise Refused(PRIVATE)
        return kept

    def _future(self, host: str, port: int) -> Future[list[Place]]:
        now, key = self.clock(), (host, port)
        with self._lock:
            until, future = self._asked.get(key, (0.0, None))
            if future is None or now > until:
                if len(self._asked) >= _MOST_NAMES:
                    self._asked.clear()
                future = self._pool.submit(_look_up, host, port)
                self._asked[key] = (now + _KEPT_S, future)
        return future

    def _forget(self, host: str, port: int) -> None:
        """A name that failed is asked again after a short while, not at once."""
        now, key = self.clock(), (host, port)
        with self._lock:
            if key in self._asked:
                until, future = self._asked[key]
                self._asked[key] = (min(until, now + 2), future)

    def close(self) -> None:
        """Forget all; threads that hang are left alone."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[Place]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(int(family), place) for family, _, _, _, place in found]
