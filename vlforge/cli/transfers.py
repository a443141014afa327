"""How transfers are shown: a bar with rate and time left, or a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from vlforge.cli.show import is_terminal
from vlforge.data.fetch.unpack import amount

_TICK_S = 0.1
_LINE_S = 30.0
_VERBS = {"fetch": "fetching", "unpack": "unpacking", "record": "looking through"}


class Transfers:
    """Shows one transfer at a time, on stderr."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._task: Any = None
        self._what = ""
        self._began = self._shown = 0.0
        self._first = 0

    def __enter__(self) -> Transfers:
        if is_terminal(sys.stderr):
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, item: str, what: str) -> None:
        """A part of the work on an item begins."""
        self._clear()
        self._what = f"{_VERBS.get(what, what)} {item}"
        self._began = self._shown = time.monotonic()
        self._first = -1
        if self._bars is None:
            print(f"{self._what} …", file=sys.stderr, flush=True)
        else:
            self._task = self._bars.add_task(self._what, total=None)

    def at(self, done: int, total: int | None) -> None:
        """It has come to so many bytes."""
        now = time.monotonic()
        if self._first < 0:
            self._first = done
        if self._task is not None and now - self._shown > _TICK_S:
            self._shown = now
            self._bars.update(self._task, completed=done, total=total)
        elif self._bars is None and now - self._shown > _LINE_S:
            self._shown = now
            print(self._line(done, total, now), file=sys.stderr, flush=True)

    def end(self, words: str) -> None:
        """The item is done; or what became of it."""
        self._clear()
        words = in_words(words)
        if self._bars is None:
            print(words, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(words, highlight=False, markup=False, soft_wrap=True)

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def _line(self, done: int, total: int | None, now: float) -> str:
        from vlforge.reports.numbers import seconds

        rate = (done - self._first) / max(now - self._began, 1e-3)
        text = f"{self._what}: {amount(done)}"
        if total:
            text += f" of {amount(total)}"
        text += f", {amount(rate)}/s"
        return text + (f", {seconds((total - done) / rate)} left" if total and rate > 0 else "")


def in_words(reason: str) -> str:
    """A reason with the option that mends it as the command line has it."""
    return reason.replace("allow_private", "--allow-private")


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
