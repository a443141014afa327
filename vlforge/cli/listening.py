"""Addresses that servers of ours listen on."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import Any

from vlforge.types import DataError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address, taken but not yet answering; port 0 takes a free one.

    Raises:
        DataError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's waiting off only where the protocol is said: 40 ms for each piece.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        why = getattr(error, "strerror", None) or error
        raise DataError(f"cannot listen on {host}:{port}: {why}; choose another --port") from None
    return taken


def shown_address(host: str, taken: socket.socket) -> str:
    """`http://host:port`, by a name that other machines may know."""
    name = host
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
    elif ":" in host:
        name = f"[{host}]"
    return f"http://{name}:{taken.getsockname()[1]}"


def serve(app: Any, taken: socket.socket, *, drain_s: int) -> None:
    """Answer until Ctrl-C or SIGTERM; what is under way then has `drain_s` seconds to end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="off",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain_s,
        limit_concurrency=1024,
    )
    # uvicorn ends at either signal and then raises it once more: there is more to close.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[taken])
