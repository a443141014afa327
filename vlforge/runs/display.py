"""Shows a run in the terminal: bars with rate and ETA, or plain lines.

A rate is over the last seconds. A stage that goes on from a checkpoint begins where it
stands, so that neither its rate nor its ETA counts what an earlier start did.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

_SAY_EVERY_S = 30.0
"""Between two lines of a stage where no terminal shows bars."""


class Display:
    """One line or bar per running node."""

    def __init__(self, total: int, *, quiet: bool = False):
        self._total = total
        self._finished = 0
        self._quiet = quiet
        self._rich: Any = None
        self._tasks: dict[str, Any] = {}
        self._begun: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> Display:
        if not self._quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._rich = _rich_progress()
            self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()

    def start(self, node: str) -> None:
        """A node began."""
        self._said[node] = time.monotonic()
        if self._rich is not None:
            self._tasks[node] = self._rich.add_task(node, total=None, note="starting")
        else:
            self._say(f"[{self._finished + 1}/{self._total}] {node} …")

    def progress(self, node: str, done: int, total: int | None, note: str) -> None:
        """A node has come so far."""
        is_first = self._begun.setdefault(node, done) == done
        if self._rich is not None and node in self._tasks:
            task = self._tasks[node]
            if is_first and done:
                # rich would count all that was there already as the work of a moment.
                self._rich.reset(task, completed=done, total=total)
            self._rich.update(task, completed=done, total=total, note=note)
        elif total and note and time.monotonic() - self._said.get(node, 0.0) >= _SAY_EVERY_S:
            self._said[node] = time.monotonic()
            self._say(f"{node}  {done:,} of {total:,}  {note}")

    def log(self, node: str, event: Mapping[str, Any]) -> None:
        """An event of a node; warnings are for its user to see."""
        if event.get("event") == "warning":
            self._say(f"{node}: {event['text']}")

    def finish(self, node: str, seconds: float, reused: bool) -> None:
        """A node is done, or was there already."""
        self._finished += 1
        if self._rich is not None and node in self._tasks:
            self._rich.remove_task(self._tasks.pop(node))
        how = "reused" if reused else f"{seconds:.1f} s"
        self._say(f"[{self._finished}/{self._total}] {node}  {how}")

    def _say(self, line: str) -> None:
        if self._quiet:
            return
        if self._rich is not None:
            self._rich.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)


def _rich_progress() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    # Where a terminal is narrow the note loses its end, and no number its digits.
    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return Progress(
        TextColumn("{task.description}", table_column=whole),
        BarColumn(bar_width=12),
        MofNCompleteColumn(table_column=whole),
        _rate_column(),
        TimeElapsedColumn(table_column=whole),
        TextColumn("left", table_column=whole),
        TimeRemainingColumn(table_column=whole),
        TextColumn("{task.fields[note]}", style="dim", table_column=rest),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            digits = 0 if speed and speed >= 10 else 1
            return Text(f"{speed:,.{digits}f}/s" if speed else "", style="dim", no_wrap=True)

    return Rate()
