"""Replies by request: an append-only file, so that nothing is asked or paid twice."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from vlforge.inference.endpoint.config import Reply
from vlforge.types import RecipeError, WriteError

_BLOCK = 1 << 16


class _Head(msgspec.Struct):
    """What is remembered of a line."""

    key: str
    tokens_in: int = msgspec.field(name="in")
    tokens_out: int = msgspec.field(name="out")
    model: str = ""


class ReplyCache:
    """Keeps replies in a JSON-lines file; without a path, in memory alone.

    Memory holds keys and places. Threads and processes may share the file: a line is
    appended whole, under a lock, and what others append is found. A last line that a kill
    cut off is passed over, and cut away by whoever writes next. The file is also the book
    of what was paid: `spent` tells of all replies that it holds.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._places: dict[str, int] = {}
        self._kept: dict[str, Reply] = {}
        self._spent: dict[str, list[int]] = {}
        self._end = 0
        self._lock = threading.Lock()
        with self._lock:
            self._read_on()

    def get(self, key: str) -> Reply | None:
        """The reply to a request that was made before, here or by another process."""
        with self._lock:
            if self.path is None:
                return self._kept.get(key)
            if key not in self._places:
                self._read_on()
            place = self._places.get(key)
        return None if place is None else self._read(key, place)

    def add(self, key: str, reply: Reply, model: str = "") -> None:
        """Keep a reply; it is in the file when this returns.

        Raises:
            WriteError: the disk refuses it.
        """
        head = {"key": key, "in": reply.tokens_in, "out": reply.tokens_out, "model": model}
        line = json.dumps(head | {"finish": reply.finish, "text": reply.text}, ensure_ascii=False)
        with self._lock:
            if self.path is None:
                self._kept[key] = replace(reply, is_cached=True)
                self._count(_Head(key, reply.tokens_in, reply.tokens_out, model))
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _append(self.path, line.encode("utf-8", "replace") + b"\n")
            except OSError as error:
                raise WriteError(
                    f"{self.path}: a reply cannot be kept: {error.strerror or error}"
                ) from None
            self._read_on()

    def spent(self, model: str) -> tuple[int, int]:
        """Tokens asked and replied in all of the model's replies that are kept."""
        with self._lock:
            self._read_on()
            tokens_in, tokens_out = self._spent.get(model, (0, 0))
        return tokens_in, tokens_out

    def _read_on(self) -> None:
        """Take note of the whole lines that were appended since."""
        try:
            if self.path is None or self.path.stat().st_size == self._end:
                return
            with self.path.open("rb") as file:
                self._index(file)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise RecipeError(
                f"replies: {self.path} cannot be read: {error.strerror or error}"
            ) from None

    def _index(self, file: BinaryIO) -> None:
        file.seek(max(0, self._end - 1))
        if self._end and file.read(1) != b"\n":  # it was replaced by another
            self._places, self._spent, self._end = {}, {}, 0
            file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                return
            with contextlib.suppress(msgspec.DecodeError):
                head = msgspec.json.decode(line, type=_Head)
                self._places[head.key] = self._end
                self._count(head)
            self._end += len(line)

    def _count(self, head: _Head) -> None:
        book = self._spent.setdefault(head.model, [0, 0])
        book[0] += head.tokens_in
        book[1] += head.tokens_out

    def _read(self, key: str, place: int) -> Reply | None:
        assert self.path is not None
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                row = json.loads(file.readline())
            if row["key"] != key:
                return None
            return Reply(row["text"], row["in"], row["out"], True, row.get("finish", ""))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _append(path: Path, line: bytes) -> None:
    """One line at the end, whole, whoever else appends; half a line there is cut away."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        with _locked(descriptor):
            end = os.lseek(descriptor, 0, os.SEEK_END)
            whole = _whole(descriptor, end)
            if whole < end:
                os.ftruncate(descriptor, whole)
            while line:  # all at once but on a disk that is nearly full
                line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Alone with the file, where the system can promise it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield  # closing the file unlocks it


def _whole(descriptor: int, end: int) -> int:
    """Where the last whole line ends."""
    while end:
        start = max(0, end - _BLOCK)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
