"""What processes of several machines tell one another between stages.

The first process leads: it runs the recipe, alone writes, and calls the others for each
stage that all of them train. They follow: wait, take part, tell how it went. Words go
over the key-value store at the address that the launcher gives.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from vlforge.runs.launch import Launch
from vlforge.types import VLForgeError

CONNECT = timedelta(minutes=15)
"""How long the first processes wait for the last: machines of one job start apart."""
SILENT_S = 90.0
"""A process that says nothing for so long is lost."""
GOODBYE_S = 30.0
"""How long the first waits for the others to have heard its end: theirs may take a while yet."""


class Lost(VLForgeError):
    """Another process is gone."""


@dataclass
class Control:
    """One process's end of the line."""

    launch: Launch
    store: Any
    orders: int = 0
    runs: int = 0
    heard: dict[int, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def connect(cls, launch: Launch, *, is_host: bool) -> Control:
        """Open the line.

        Args:
            is_host: whether this process answers at the address, where the launcher does not.

        Raises:
            Lost: nobody answers there.
        """
        from torch.distributed import PrefixStore, TCPStore

        try:
            store = TCPStore(
                launch.address, launch.port, is_master=is_host and not launch.has_host,
                wait_for_workers=False, timeout=CONNECT,
            )  # fmt: skip
        except RuntimeError as error:
            raise Lost(
                f"process {launch.rank}: {launch.address}:{launch.port} cannot be used to meet the "
                f"others ({str(error).splitlines()[0][:100]}); set MASTER_ADDR and MASTER_PORT"
            ) from None
        return cls(launch, PrefixStore(f"vlforge/{launch.attempt}", store))

    def call(self, work: Any) -> int:
        """Call all others to take part in something, told as JSON; the number that it has."""
        number = int(self.store.add("orders", 1)) - 1
        self.store.set(f"order/{number}", json.dumps(work))
        return number

    def called(self) -> tuple[int, Any] | None:
        """What this process is called to next, once."""
        work = self.read(f"order/{self.orders}")
        if work is None:
            return None
        self.orders += 1
        return self.orders - 1, work

    def tell(self, key: str, what: Any) -> None:
        """Say something under a name, as JSON: nobody on the net gets code run here."""
        with self._speaking():
            self.store.set(key, json.dumps(what))

    def read(self, key: str) -> Any:
        """What was said under a name; None where nothing was yet."""
        with self._speaking():
            return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def beat(self) -> None:
        """Say that this process is there."""
        with self._speaking():
            self.store.add(f"beat/{self.launch.rank}", 1)

    def silent(self) -> int | None:
        """A process that has not been heard for too long; asked for again and again."""
        now = time.monotonic()
        for rank in range(1, self.launch.count):
            with self._speaking():
                beats = int(self.store.add(f"beat/{rank}", 0))
            if self.heard.get(rank, (-1, now))[0] != beats:
                self.heard[rank] = (beats, now)
            elif now - self.heard[rank][1] > SILENT_S:
                return rank
        return None

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            line = str(error).splitlines()[0][:100]
            raise Lost(
                f"process {self.launch.rank} on {socket.gethostname()}: the first process is gone "
                f"({line})"
            ) from None


@functools.cache
def line_of(launch: Launch) -> Control:
    """This process's line, opened once."""
    return Control.connect(launch, is_host=launch.rank == 0)


@contextlib.contextmanager
def leading(launch: Launch | None) -> Iterator[None]:
    """Around all that the first process does: the others end with it, well or not."""
    if launch is None or _leads:
        yield
        return
    control, said = line_of(launch), "failed"
    _leads.append(control)
    try:
        yield
        said = "done"
    except KeyboardInterrupt:
        said = "stopped"
        raise
    except SystemExit as error:
        said = {None: "done", 0: "done", 130: "stopped"}.get(error.code, "failed")  # type: ignore
        raise
    finally:
        _leads.clear()
        _say_goodbye(control, said)


_leads: list[Control] = []


def _say_goodbye(control: Control, said: str) -> None:
    number, control.runs = control.runs, control.runs + 1
    with contextlib.suppress(Lost):
        control.tell(f"end/{number}", said)
        until = time.monotonic() + GOODBYE_S
        others = set(range(1, control.launch.count))
        # Who answers at the address must not hang up before the last has heard.
        while others and time.monotonic() < until:
            others = {rank for rank in others if control.read(f"bye/{number}/{rank}") is None}
            time.sleep(0.02 if others else 0)


def own_name() -> str:
    """This process, as others may look for it."""
    return f"{socket.gethostname()}, process id {os.getpid()}"
