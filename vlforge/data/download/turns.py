"""Whose turn it is: addresses in order, but no more than so many at one host, failed ones later.

A host that is busy holds up nobody: its addresses wait aside while threads take
those of others.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

_NEVER_S = 3600.0


class Turns:
    """Hands out the numbers of addresses to threads.

    `hosts` holds the host of each address. What is fetched but not yet collected
    is limited: beyond `budget` bytes only the address that is collected next is
    handed out, so that collecting in order never waits for what nobody fetches.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        per_host: int,
        budget: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._hosts, self._per_host, self._budget, self._clock = hosts, per_host, budget, clock
        self._next = 0
        self._aside: dict[str, list[int]] = defaultdict(list)
        self._ready: list[int] = []
        self._later: list[tuple[float, int]] = []
        self._busy: Counter[str] = Counter()
        self._left = len(hosts)
        self._held = 0
        self._first = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """The next address, waiting for one where all hosts are busy; None when all are done."""
        with self._changed:
            while self._left and not self._stopped:
                found = self._find()
                if found is not None:
                    self._busy[self._hosts[found]] += 1
                    return found
                self._changed.wait(self._until_later())
            return None

    def done(self, at: int, size: int) -> None:
        """The address is settled; `size` bytes of it wait to be collected."""
        with self._changed:
            self._left -= 1
            self._held += size
            self._free(at)

    def again(self, at: int, wait_s: float) -> None:
        """The address is to be asked again after a while."""
        with self._changed:
            heapq.heappush(self._later, (self._clock() + wait_s, at))
            self._free(at)

    def collected(self, at: int, size: int) -> None:
        """The address's bytes are gone; the next one is collected now."""
        with self._changed:
            self._held -= size
            self._first = at + 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _free(self, at: int) -> None:
        host = self._hosts[at]
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]
        waiting = self._aside.get(host)
        if waiting:
            heapq.heappush(self._ready, heapq.heappop(waiting))
        elif waiting is not None:
            del self._aside[host]
        self._changed.notify_all()

    def _find(self) -> int | None:
        """An address whose host has room, the earliest first."""
        while self._later and self._later[0][0] <= self._clock():
            heapq.heappush(self._ready, heapq.heappop(self._later)[1])
        is_full = self._held >= self._budget
        while self._ready:
            if is_full and self._ready[0] != self._first:
                return None
            at = heapq.heappop(self._ready)
            if self._has_room(at):
                return at
        while self._next < len(self._hosts):
            if is_full and self._next != self._first:
                return None
            at, self._next = self._next, self._next + 1
            if self._has_room(at):
                return at
        return None

    def _has_room(self, at: int) -> bool:
        """Whether its host may be asked; if not, the address waits aside."""
        host = self._hosts[at]
        if self._per_host and self._busy[host] >= self._per_host:
            heapq.heappush(self._aside[host], at)
            return False
        return True

    def _until_later(self) -> float:
        if not self._later:
            return _NEVER_S
        return max(self._later[0][0] - self._clock(), 0.001)
