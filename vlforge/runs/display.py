"""Shows a run in the terminal: bars with rate and ETA, or plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class Display:
    """One line or bar per running node."""

    def __init__(self, total: int, *, quiet: bool = False):
        self._total = total
        self._finished = 0
        self._quiet = quiet
        self._rich: Any = None
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> Display:
        if not self._quiet and sys.stderr.isatty():
            self._rich = _rich_progress()
            self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()

    def start(self, node: str) -> None:
        """A node began."""
        self._started[node] = time.monotonic()
        if self._rich is not None:
            self._tasks[node] = self._rich.add_task(node, total=None, note="starting")
        else:
            self._say(f"[{self._finished + 1}/{self._total}] {node} …")

    def progress(self, node: str, done: int, total: int | None, note: str) -> None:
        """A node has come so far."""
        if self._rich is not None and node in self._tasks:
            self._rich.update(self._tasks[node], completed=done, total=total, note=note)

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

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _rate_column(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=Console(stderr=True),
        transient=True,
    )


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f}/s" if speed else "", style="dim")

    return Rate()
