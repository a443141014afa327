"""What a user types, typed: command lines in a working folder, and what they said."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.signals import hears_ctrl_c

PATIENCE_S = 600.0
"""How long a server may take to begin, to answer and to end."""


def typed(line: str, folder: Path, code: int = 0) -> str:
    """What `vlforge …` said on stdout and stderr, given in `folder`.

    Args:
        line: as it is typed, continued lines as in a shell.
        code: the exit code that it has to end with.
    """
    from vlforge.cli import main

    words = shlex.split(line.replace("\\\n", " "))
    assert words[0] == "vlforge"
    out = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        found = main(words[1:])
    assert found == code, f"{line}\nended with {found} and said\n{out.getvalue()}"
    return out.getvalue()


@contextlib.contextmanager
def serving(folder: Path, words: Sequence[str], until: str, stop: signal.Signals) -> Iterator[str]:
    """What `vlforge …` says up to the line that begins so; a process that ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vlforge", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hears_ctrl_c,
    )
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith(until):
                break
        yield said
    finally:
        process.send_signal(stop)
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()


@contextlib.contextmanager
def served(folder: Path, model: str) -> Iterator[str]:
    """The address of `vlforge serve MODEL`."""
    words = ["serve", model, "--port", "0"]
    with serving(folder, words, "At ", signal.SIGTERM) as said:
        address = said.rpartition("\nAt ")[2].strip()
        assert address.startswith("http"), said
        _wait_for(address)
        yield address


def _wait_for(url: str) -> None:
    """The address is told a moment before it answers."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=PATIENCE_S).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def asked(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The server's answer to a request for a conversation's next turn."""
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
