"""Ending a stage early on request, between two steps, so that nothing done is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_POLITE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers send some time before they kill, and Ctrl-C."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Stopping:
    """Whether somebody asked for the end: by a signal, or as `asked` says.

    Inside of its `with` block the signals of schedulers (SIGTERM, SIGUSR1) and Ctrl-C are
    remembered instead of ending the process; a second Ctrl-C ends it at once. A signal that
    the process ignores stays ignored.
    """

    def __init__(self, asked: Callable[[], bool] = never):
        self._asked = asked
        self._seen = False
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        self._seen = self._seen or self._asked()
        return self._seen

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in _POLITE:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._seen and number == signal.SIGINT:
            signal.signal(number, self._before[number])
            os.kill(os.getpid(), number)
        self._seen = True
