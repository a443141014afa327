"""What each open page holds on this machine: pictures for a while, requests under way, answers.

A room is a page's conversation. Its pictures lie in a temporary folder of this process and go
with the room: when the page is left, after some idle time, and when the process ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from vlforge.serving.talking import Request
from vlforge.types import VLForgeError

PREFIX = "vlforge-web-"
_KEPT_ANSWERS = 400


@dataclass(frozen=True)
class Bounds:
    """What a visitor may ask for; sizes in bytes, `held` of all pictures on disk together."""

    bytes: int = 20 << 20
    pixels: int = 64_000_000
    pictures: int = 16
    characters: int = 100_000
    exchanges: int = 200
    tokens: int = 2048
    beams: int = 8
    asks: int = 4
    rooms: int = 200
    held: int = 4 << 30
    idle_s: float = 3600.0
    grace_s: float = 60.0
    """How long a left room waits for its page to be loaded again."""


class Refused(VLForgeError):
    """Why a page does not get what it asks for; `status` is HTTP's."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Kept:
    """A picture that was taken: the file as it came, and how it is shown."""

    number: int
    name: str
    path: Path
    shown: Path
    kind: str
    """Media type of `shown`."""
    width: int
    height: int
    sha256: str
    size: int


@dataclass
class Answer:
    """What was asked and said, for the vote on it."""

    model: str
    question: str
    pictures: tuple[Kept, ...]
    settings: dict[str, Any]
    turn: int
    text: str = ""
    ended: str = ""


@dataclass(eq=False)
class Room:
    """One page's conversation."""

    key: str
    folder: Path
    seen_at: float
    pictures: dict[int, Kept] = field(default_factory=dict)
    answers: OrderedDict[str, Answer] = field(default_factory=OrderedDict)
    asking: set[Request] = field(default_factory=set)
    expected: int = 0
    """Pictures that are being sent."""
    left_at: float | None = None
    is_closed: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def note(self, answer: Answer) -> str:
        """Keep an answer, the oldest of many goes; its name."""
        name = secrets.token_hex(8)
        self.answers[name] = answer
        while len(self.answers) > _KEPT_ANSWERS:
            self.answers.popitem(last=False)
        return name


class Rooms:
    """All rooms of a process.

    Args:
        bounds: of rooms and their pictures.
        clock: seconds; tests give their own.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic):
        self.bounds, self.clock = bounds, clock
        remove_forsaken()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._mark = _held_mark(self.folder)
        self.held = 0
        self._rooms: dict[str, Room] = {}
        self._lock = threading.RLock()
        self._ends = threading.Event()
        threading.Thread(target=self._sweep_on, daemon=True, name="rooms").start()

    def __len__(self) -> int:
        """Rooms that are open."""
        return len(self._rooms)

    def open(self) -> Room:
        """A new room.

        Raises:
            Refused: as many are open as may be, all of them in use.
        """
        self.sweep()
        with self._lock:
            if len(self._rooms) >= self.bounds.rooms:
                oldest = min(self._rooms.values(), key=lambda room: room.seen_at)
                if self.clock() - oldest.seen_at < self.bounds.grace_s:
                    raise Refused(503, f"{len(self._rooms)} people are here; come again later")
                self._close(oldest)
            key = secrets.token_urlsafe(16)
            folder = self.folder / secrets.token_hex(8)
            folder.mkdir()
            room = self._rooms[key] = Room(key, folder, self.clock())
        return room

    def find(self, key: str) -> Room:
        """The room of a page that is still there.

        Raises:
            Refused: no such room, or no longer.
        """
        with self._lock:
            room = self._rooms.get(key)
            if room is None:
                raise Refused(404, "this conversation's pictures are gone; begin a new one")
            room.seen_at, room.left_at = self.clock(), None
            return room

    def leave(self, key: str, *, at_once: bool = False) -> None:
        """A page was closed, perhaps to be loaded again; `at_once`: it will not come back."""
        with self._lock:
            room = self._rooms.get(key)
            if room is not None and at_once:
                self._close(room)
            elif room is not None:
                room.left_at = self.clock()
                _stop(room)

    @contextlib.contextmanager
    def place(self, room: Room) -> Iterator[Claim]:
        """Room for one more picture while it is being sent.

        Raises:
            Refused: the conversation has as many as it may.
        """
        with self._lock:
            most = self.bounds.pictures
            if len(room.pictures) + room.expected >= most:
                raise Refused(409, f"a conversation takes {most} pictures; begin a new one")
            room.expected += 1
        claim = Claim(self)
        try:
            yield claim
        finally:
            with self._lock:
                room.expected -= 1
            claim.end()

    def keep(self, room: Room, kept: Kept, claim: Claim) -> None:
        """A picture is in its place.

        Raises:
            Refused: its page was closed meanwhile.
        """
        with self._lock:
            if room.is_closed:
                raise Refused(404, "this conversation was closed")
            claim.is_kept = True
            room.pictures[kept.number] = kept

    def remove(self, room: Room, number: int) -> None:
        """A picture is not wanted."""
        with self._lock:
            kept = room.pictures.pop(number, None)
            if kept is not None:
                kept.path.unlink(missing_ok=True)
                kept.shown.unlink(missing_ok=True)
                self.held -= kept.size

    def claim(self, size: int) -> None:
        """So many bytes more are held on disk; `Refused` where that is too many."""
        with self._lock:
            if self.held + size > self.bounds.held:
                raise Refused(503, "there is no room for more pictures now; try again later")
            self.held += size

    def release(self, size: int) -> None:
        """So many bytes less."""
        with self._lock:
            self.held -= size

    def sweep(self) -> None:
        """Close rooms that were left or idle for long."""
        now = self.clock()
        with self._lock:
            for room in list(self._rooms.values()):
                is_left = room.left_at is not None and now - room.left_at > self.bounds.grace_s
                is_idle = not room.asking and now - room.seen_at > self.bounds.idle_s
                if is_left or is_idle:
                    self._close(room)

    def close(self) -> None:
        """Close all rooms and remove all pictures."""
        self._ends.set()
        with self._lock:
            for room in list(self._rooms.values()):
                self._close(room)
        self._mark.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close(self, room: Room) -> None:
        room.is_closed = True
        self._rooms.pop(room.key, None)
        _stop(room)
        self.held -= sum(kept.size for kept in room.pictures.values())
        room.pictures.clear()
        shutil.rmtree(room.folder, ignore_errors=True)

    def _sweep_on(self) -> None:
        while not self._ends.wait(min(30.0, self.bounds.grace_s / 2, self.bounds.idle_s / 4)):
            self.sweep()


class Claim:
    """Bytes on disk of a picture that is being sent; given back unless it is kept."""

    def __init__(self, rooms: Rooms):
        self.rooms, self.size, self.is_kept = rooms, 0, False

    def add(self, size: int) -> None:
        """So many more; `Refused` where there is no room."""
        self.rooms.claim(size)
        self.size += size

    def end(self) -> None:
        """Give back what is not kept."""
        if not self.is_kept:
            self.rooms.release(self.size)


def _stop(room: Room) -> None:
    for request in tuple(room.asking):
        request.leave()


def _held_mark(folder: Path) -> IO[bytes]:
    """A file that is locked as long as this process lives, however it ends.

    It has its name once it is locked: others remove folders whose mark nobody holds.
    """
    unnamed = folder / ".new"
    mark = unnamed.open("wb")
    with contextlib.suppress(ImportError, OSError):  # not on every system or disk
        import fcntl

        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unnamed.rename(folder / ".alive")
    return mark


def remove_forsaken() -> None:
    """Remove the folders of processes that were killed before they could."""
    try:
        import fcntl
    except ImportError:
        return
    for mark in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/.alive"):
        with contextlib.suppress(OSError):  # another process lives, or another user's folder
            if mark.parent.is_symlink() or mark.stat().st_uid != os.getuid():
                continue
            with mark.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(mark.parent, ignore_errors=True)
