"""A model that many people use at once: who waits, who is answered together, who has left.

One thread draws answers. Requests that ask for the same way of drawing are answered in one
batch; the others wait their turn, the oldest first. What an answer says depends on its own
request alone, so batches change nothing but the time it takes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vlforge.types import Drawing, Piece, Sample, VLForgeError

LINGER_S = 0.005
"""How long a batch's askers may take to ask again: they are then answered together once more."""


class Speaker(Protocol):
    """A model that answers several requests side by side, piece by piece."""

    def stream_many(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> Iterator[Piece]:
        """Pieces of all answers as they are made, each with its request's place.

        The last piece of each says how it ended. Closing the iterator stops all. A request
        that cannot be answered ends with `ended="refused"` and says why; the others go on.
        """
        ...


class Full(VLForgeError):
    """So many requests wait that another one is not taken."""


@dataclass(eq=False)
class Request:
    """One request in line; iterate over it for the answer's pieces."""

    sample: Sample
    drawing: Drawing
    key: int
    asked_at: float = field(default_factory=time.monotonic)
    first_at: float = 0.0
    """When the first piece came."""
    pieces: queue.SimpleQueue[Piece | Exception] = field(default_factory=queue.SimpleQueue)
    left: threading.Event = field(default_factory=threading.Event)

    def leave(self) -> None:
        """Nobody reads on: the answer is not drawn to its end where it is alone."""
        self.left.set()

    def __iter__(self) -> Iterator[Piece]:
        """Pieces until the last.

        Raises:
            VLForgeError: it cannot be answered; says why.
        """
        while True:
            found = self.pieces.get()
            if isinstance(found, Exception):
                raise found
            if found.ended == "refused":
                raise VLForgeError(found.text)
            yield found
            if found.ended:
                return

    def whole(self) -> tuple[str, Piece]:
        """The whole text, and the last piece."""
        pieces = list(self)
        return "".join(piece.text for piece in pieces), pieces[-1]


class Talker:
    """Gives a model to many, in turn.

    Args:
        speaker: the model.
        name: what it is called.
        batch: most requests that are answered together.
        waiting: most requests in line; more are refused.
    """

    def __init__(self, speaker: Speaker, name: str, *, batch: int = 8, waiting: int = 64):
        self.speaker, self.name, self.batch, self.waiting = speaker, name, batch, waiting
        self.answered = 0
        self.batches = 0
        self._line: deque[Request] = deque()
        self._changed = threading.Condition()
        self._ends = False
        self._busy = 0
        self._done_at = 0.0
        self._thread = threading.Thread(target=self._work, name=f"talk {name}", daemon=True)
        self._thread.start()

    @property
    def in_line(self) -> int:
        """Requests that wait or are being answered."""
        with self._changed:
            return len(self._line) + self._busy

    def place(self, request: Request) -> int:
        """Its place in line from 1; 0 while it is being answered, and after."""
        with self._changed:
            waits = [one for one in self._line if not one.left.is_set()]
        return next((place for place, one in enumerate(waits, 1) if one is request), 0)

    def ask(self, sample: Sample, drawing: Drawing, key: int = 0) -> Request:
        """Stand in line.

        Raises:
            Full: too many wait, or the model is being closed.
        """
        request = Request(sample, drawing, key)
        with self._changed:
            if self._ends:
                raise Full(f"{self.name} is being closed; ask again later")
            if len(self._line) >= self.waiting:
                raise Full(f"{len(self._line)} requests wait for {self.name}; ask again later")
            self._line.append(request)
            self._changed.notify()
        return request

    def close(self, wait_s: float = 30.0) -> None:
        """Take nothing more; answer what waits, for so many seconds at most."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join(wait_s)
        with self._changed:
            while self._line:
                self._line.popleft().pieces.put(Full(f"{self.name} was closed"))

    def _work(self) -> None:
        while group := self._next_group():
            try:
                self._answer(group)
            except Exception as error:  # whatever it is, it is the askers' to hear
                for request in group:
                    request.pieces.put(error)
            with self._changed:
                self._busy = 0
                self._done_at = time.monotonic() if len(group) > 1 else 0.0

    def _next_group(self) -> list[Request]:
        """The oldest request, and others that are drawn in the same way; empty at the end."""
        with self._changed:
            while True:
                self._line = deque(one for one in self._line if not one.left.is_set())
                soon = self._done_at + LINGER_S - time.monotonic()
                if self._line and (soon <= 0 or self._ends or len(self._line) >= self.batch):
                    break
                if self._ends:
                    return []
                self._changed.wait(soon if self._line else None)
            drawing = self._line[0].drawing
            group = [one for one in self._line if one.drawing == drawing][: self.batch]
            chosen = set(map(id, group))
            self._line = deque(one for one in self._line if id(one) not in chosen)
            self._busy = len(group)
            return group

    def _count_end(self) -> None:
        """Before the asker hears of it: who is answered and looks at the counts is in them."""
        with self._changed:
            self.answered += 1
            self._busy -= 1

    def _answer(self, group: list[Request]) -> None:
        self.batches += 1
        drawing = group[0].drawing
        samples, keys = [one.sample for one in group], [one.key for one in group]
        left = set(range(len(group)))
        pieces: Any = self.speaker.stream_many(samples, drawing, keys)
        try:
            for piece in pieces:
                request = group[piece.place]
                request.first_at = request.first_at or time.monotonic()
                if piece.ended:
                    left.discard(piece.place)
                    self._count_end()
                request.pieces.put(piece)
                if all(group[place].left.is_set() for place in left):
                    break
        finally:
            pieces.close()
        for place in left:
            group[place].pieces.put(Piece(place, "", "stopped"))
