"""A server of models on loopback, in this process, and ways to ask it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
import uvicorn
from PIL import Image

from tests.serving.patience import PATIENCE_S
from vlforge.cli.listening import bound
from vlforge.inference.scripted import ScriptedSpeaker
from vlforge.serving.http.app import House, build_app
from vlforge.serving.http.limits import Limits
from vlforge.serving.talking import Talker


@dataclass
class Place:
    """Where a server listens, and what it is made of."""

    port: int
    house: House
    server: uvicorn.Server

    @property
    def url(self) -> str:
        """As OpenAI's clients want it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, key: str = "none", **how: Any) -> openai.OpenAI:
        """OpenAI's own client, which asks once."""
        how = {"max_retries": 0, "timeout": PATIENCE_S} | how
        return openai.OpenAI(base_url=self.url, api_key=key, **how)

    def line(self) -> http.client.HTTPConnection:
        """A connection for what no client would send."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def pass_time(self, seconds: float) -> None:
        """The server's clock goes forward; what waits for a time until then wakes up."""
        loop: Any = self.server.servers[0].get_loop()
        before = loop.time
        loop.call_soon_threadsafe(setattr, loop, "time", lambda: before() + seconds)

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (of JSON: its value) and headers."""
        line = self.line()
        told = {"Content-Type": "application/json"} | (headers or {})
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        line.request("GET" if body is None else "POST", path, data, told)
        answer = line.getresponse()
        found, kind = answer.read(), answer.headers.get("content-type", "")
        line.close()
        value = json.loads(found) if kind == "application/json" else found.decode()
        return answer.status, value, {k.lower(): v for k, v in answer.headers.items()}

    def complete(self, *messages: Any, **how: Any) -> tuple[int, Any, dict[str, str]]:
        """The same for a chat of these messages."""
        body = {"model": "m", "messages": list(messages)} | how
        return self.ask("/v1/chat/completions", body)


@contextmanager
def serving(
    *speakers: Any, limits: Limits = Limits(), fetch: Any = None, key: str = "", **how: Any
) -> Iterator[Place]:
    """Serve while the block runs; the speakers are called m, m2, …; `how` is for their lines."""
    names = ["m", *(f"m{number}" for number in range(2, 9))]
    talkers = [Talker(one, name, **how) for one, name in zip(speakers, names, strict=False)]
    lines: list[str] = []
    house = House(talkers, limits, fetch, lines.append)
    taken = bound("127.0.0.1", 0)
    app = build_app(house, key=key)
    # Its own loop's clock can be set, that of a compiled one cannot.
    how_it_runs = {"log_level": "error", "lifespan": "off", "loop": "asyncio"}
    config = uvicorn.Config(app, timeout_keep_alive=600, **how_it_runs)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Place(taken.getsockname()[1], house, server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        house.close(0.1)
        taken.close()


def wait_until(holds: Any, most_s: float = PATIENCE_S) -> None:
    """Until it holds."""
    end = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def echo(**how: Any) -> ScriptedSpeaker:
    """Says the last turn back, picture marks and all, and how many pictures there are."""

    def reply(sample: Any, drawing: Any, key: int) -> str:
        return f"{len(sample.images)} pictures {sample.turns[-1].text!r}"

    return ScriptedSpeaker(reply, **how)


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def shown(content: bytes, kind: str = "png") -> dict[str, Any]:
    """A picture as a part of a message."""
    data = base64.b64encode(content).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}


def words(text: str) -> dict[str, Any]:
    """A text as a part of a message."""
    return {"type": "text", "text": text}


def png(width: int = 20, height: int = 14, colour: Any = (200, 30, 30)) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def bomb(width: int = 20_000, height: int = 10_000) -> bytes:
    """A grey PNG of a few hundred kilobytes that would be large in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
