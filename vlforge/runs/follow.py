"""A process that a launcher started beside the first: it takes part in what that one leads."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from vlforge.runs.control import Control, Lost, line_of
from vlforge.runs.launch import Launch

_POLL_S = 0.5
_GIVEN_UP_S = 120.0
"""How long after a signal a stage may take to write its checkpoint and end."""


def follow(launch: Launch) -> str:
    """Take part until the first process has ended; gives `done`, `stopped` or `failed`.

    Raises:
        Lost: the first process is gone without a word.
    """
    control = line_of(launch)
    number, control.runs = control.runs, control.runs + 1
    with _patient() as signalled:
        return _follow(launch, control, number, signalled)


def _follow(launch: Launch, control: Control, number: int, signalled: list[float]) -> str:
    from vlforge.runs.team import Call, take_part

    while True:
        control.beat()
        called = control.called()
        if called is not None:
            take_part(Call.of(called[1]), launch, control, called[0])
            continue
        said = control.read(f"end/{number}")
        if said is not None:
            with contextlib.suppress(Lost):
                control.tell(f"bye/{number}/{launch.rank}", True)
            return str(said)
        if signalled and time.monotonic() - signalled[0] > _GIVEN_UP_S:
            raise Lost(f"process {launch.rank} was told to end, and the first did not answer")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _patient() -> Iterator[list[float]]:
    """One signal lets the stage end in its own time, as the first process does; another ends."""
    signalled: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield signalled
        return

    def take(number: int, frame: FrameType | None) -> None:
        if signalled and time.monotonic() - signalled[0] > 1.0:
            raise KeyboardInterrupt
        signalled.append(time.monotonic())

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, take) for number in numbers}
    try:
        yield signalled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
