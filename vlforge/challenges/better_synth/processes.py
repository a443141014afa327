"""A command whose lines are read as they come, and whose whole family ends with it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO

PATIENCE_S = (20.0, 10.0)
"""How long processes have after Ctrl-C's signal, and after the next one."""


def lines_of(
    command: Sequence[str],
    home: Path,
    kept: IO[bytes],
    patience: tuple[float, float] = PATIENCE_S,
) -> Generator[str, None, None]:
    """Run a command in `home`; its lines, and the states of its bars, as they come.

    Every byte goes to `kept`. Where the reader stops early, by Ctrl-C or an error, the
    command and all that it started are ended first.
    """
    process = subprocess.Popen(
        command,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        with _as_interrupt():
            yield from _lines(process.stdout, kept)
            process.wait()
    except BaseException:
        end_all(process, patience)
        raise


@contextlib.contextmanager
def _as_interrupt() -> Iterator[None]:
    """A scheduler's signal, or a terminal that is closed, is as Ctrl-C."""

    def take(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread
        for number in (signal.SIGTERM, signal.SIGHUP):
            before[number] = signal.signal(number, take)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lines(out: IO[bytes], kept: IO[bytes]) -> Iterator[str]:
    """Lines, and states of a bar, as they come; every byte is kept."""
    left = b""
    while block := os.read(out.fileno(), 1 << 16):
        kept.write(block)
        kept.flush()
        parts = re.split(rb"[\r\n]", left + block)
        left = parts.pop()
        yield from (part.decode("utf-8", "replace") for part in parts if part.strip())
    if left.strip():
        yield left.decode("utf-8", "replace")


def end_all(process: subprocess.Popen[bytes], patience: tuple[float, float] = PATIENCE_S) -> None:
    """End a process and everything it started: asked first, then told, then killed."""
    family = descendants(process.pid)
    for number, seconds in zip((signal.SIGINT, signal.SIGTERM), patience, strict=True):
        family |= descendants(process.pid)
        _tell(process.pid, family, number)
        if _gone(process, family, seconds):
            return
    _tell(process.pid, family, signal.SIGKILL)
    process.wait()
    _gone(process, family, patience[1])  # What they hold is free a moment after.


def _tell(leader: int, family: set[int], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
    for pid in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != leader:
                os.kill(pid, number)


def _gone(process: subprocess.Popen[bytes], family: set[int], patience: float) -> bool:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        process.poll()
        if not any(map(lives, {process.pid, *family})):
            return True
        time.sleep(0.05)
    return False


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked after does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def descendants(pid: int) -> set[int]:
    """Processes that a process started, and those that these started."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = [one for one in parents.get(waiting.pop(), []) if one not in found]
        found.update(children)
        waiting += children
    return found
