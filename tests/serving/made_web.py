"""A chat page whose models say what a test tells them, and clients of it."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from tests.serving.patience import PATIENCE_S
from vlforge.inference.scripted import ScriptedSpeaker
from vlforge.serving.talking import Talker
from vlforge.serving.web.app import create_app
from vlforge.serving.web.hall import Hall
from vlforge.types import Drawing, Refusal, Sample


def echo(sample: Sample, drawing: Drawing, key: int) -> str | Refusal:
    """The last question's words back, with the settings that change an answer."""
    question = sample.turns[-1].text.replace("<image>\n", "")
    if question == "refuse":
        return Refusal("cannot", "not this one")
    turns = len(sample.turns)
    return f"{turns} turns, {len(sample.images)} pictures, key {key}: {question}"


def talker(reply: Callable[..., Any] = echo, name: str = "parrot", **how: Any) -> Talker:
    """A model that replies so."""
    return Talker(ScriptedSpeaker(reply, **how), name)


@contextmanager
def visiting(*talkers: Talker, login: Any = None, is_open: bool = False, **how: Any) -> Iterator:
    """(client, hall) of a page with these models, or with a parrot."""
    hall = Hall(talkers or (talker(),), **how)
    app = create_app(hall, login=login, is_open=is_open)
    try:
        with TestClient(app, base_url="http://127.0.0.1:8000") as client:
            yield client, hall
    finally:
        hall.close()


@contextmanager
def serving(hall: Hall, **how: Any) -> Iterator[str]:
    """The address of a running server."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(hall, **how)
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_keep_alive=600)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        hall.close()
        server.should_exit = True
        thread.join(PATIENCE_S)


def picture(
    size: tuple[int, int] = (64, 48), colour: str = "teal", kind: str = "PNG", **how: Any
) -> bytes:
    """A picture's file."""
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, kind, **how)
    return data.getvalue()


def write_picture(path: Path, **how: Any) -> Path:
    """A picture in a file."""
    path.write_bytes(picture(**how))
    return path


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.01)
