"""`vlforge watch`: how far a run's training is, from another terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlforge.cli.show import is_terminal, plain_line
from vlforge.cli.why import newest_run

if TYPE_CHECKING:
    from vlforge.runs.watching import Following

EXAMPLES = """\b
Examples:
  vlforge watch                           the newest run
  vlforge watch runs/photos --once
"""

_EVERY_S = 1.0


def watch(
    folder: Annotated[
        Path | None, typer.Argument(help="A run.", show_default="the newest run")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Tell how far it is and end.")] = False,
) -> None:
    """Follow the training of a run: loss, held-out loss, speed, time left.

    A line per stage, renewed while the run goes on; without a terminal a line whenever
    something new is known. It reads `log.jsonl` alone and disturbs nobody.
    """
    from vlforge.runs.watching import Following

    following = Following(folder or newest_run(Path("runs"), "vlforge watch FOLDER"))
    following.read()
    if once or not following.is_running():
        for line in following.lines() or ["nothing has trained here yet"]:
            plain_line(line)
        return
    if is_terminal(sys.stdout):
        _renew(following)
    else:
        _tell(following)


def _renew(following: Following) -> None:
    """Lines that change in their places."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def shown() -> Text:
        lines = following.lines() or ["nothing trains yet"]
        return Text("\n".join(lines), overflow="ellipsis", no_wrap=True)

    with Live(shown(), console=Console(), auto_refresh=False) as live:
        while following.is_running():
            time.sleep(_EVERY_S)
            if following.read():
                live.update(shown(), refresh=True)
        following.read()
        live.update(shown(), refresh=True)


def _tell(following: Following) -> None:
    """A line for each stage whose line is new."""
    told: dict[str, str] = {}
    is_running = True
    while is_running:
        is_running = following.is_running()
        following.read()
        for name, seen in following.nodes.items():
            if told.get(name) != seen.line():
                told[name] = seen.line()
                plain_line(told[name])
        sys.stdout.flush()
        if is_running:
            time.sleep(_EVERY_S)
