"""A site on this machine with every fault that addresses on the web have."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

ENDLESS = 10_000_000_000


def picture(width: int = 40, height: int = 30, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """An encoded gradient."""
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


class Site(BaseHTTPRequestHandler):
    """Answers by the path; how often each was asked for stands in the server's `asked`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The answer that the path names."""
        with self.server.lock:
            self.server.asked[self.path] += 1
            times = self.server.asked[self.path]
        self.server.headers = dict(self.headers)
        name, _, rest = self.path.lstrip("/").partition("/")
        with contextlib.suppress(OSError):
            self.answer(name, rest, times)
        self.close_connection = True

    def answer(self, name: str, rest: str, times: int) -> None:
        """`/404`, `/flaky500/2/x` (twice 500, then a picture), `/to/ADDRESS`, `/hang` …"""
        if name.isdigit():
            self.say(int(name), b"no")
        elif name.startswith("flaky"):
            is_ready = times > int(rest.split("/")[0])
            self.say(200 if is_ready else int(name[5:]), picture() if is_ready else b"no")
        elif name == "to":
            self.say(302, b"", Location=rest)
        elif name == "deeper":
            self.say(302, b"", Location=f"/deeper/{int(rest) + 1}")
        elif name == "hang":
            self.server.closing.wait(600)
        elif name == "drip":
            self.drip()
        elif name in ("cut", "reset"):
            self.say(200, picture(), length=9000 if name == "cut" else None, half=name == "reset")
        elif name == "zeros":
            self.zeros(is_told=rest == "told")
        elif name == "robots":
            self.say(200, picture(), **{"X-Robots-Tag": rest.replace("_", " ")})
        elif name == "html.jpg":
            self.say(200, b"<html><body>Not here any more</body></html>")
        else:
            self.say(200, self.server.files.get(self.path, picture()))

    def say(self, code: int, body: bytes, length: int | None = None, half: bool = False,
            **headers: str) -> None:  # fmt: skip
        """An answer; with a wrong `length`, or only the first `half` of its head."""
        if half:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-")
            return
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self) -> None:
        """A head that never ends, a byte at a time: each wait is short, all together are not."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.closing.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()

    def zeros(self, is_told: bool) -> None:
        """Ten billion zeros, with or without saying so first."""
        self.send_response(200)
        if is_told:
            self.send_header("Content-Length", str(ENDLESS))
        self.end_headers()
        block = bytes(1 << 16)
        while self.server.sent < ENDLESS and not self.server.closing.is_set():
            self.wfile.write(block)
            self.server.sent += len(block)

    def log_message(self, *_: object) -> None:
        """Silence."""


class Server(ThreadingHTTPServer):
    """The site's server."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Site)
        self.asked: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.sent = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def running_site(monkeypatch) -> Iterator[Server]:
    """The site while the block runs, with no proxy in between."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
