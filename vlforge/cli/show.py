"""What the terminal shows besides a run's own display: lines, errors, tables.

Results go to stdout, progress and errors to stderr. Rich is loaded only where a
terminal is there to show it; elsewhere every line is plain text.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlforge.types import ProgressFn

RED = "\033[38;2;178;59;59m"
PLAIN = "\033[0m"


def plain_line(text: str) -> None:
    """One line on stdout, now."""
    print(text, flush=True)


def error_line(text: str) -> None:
    """`error: …` on stderr, one for each line of `text`."""
    mark = "error:"
    if is_terminal(sys.stderr) and not os.environ.get("NO_COLOR"):
        mark = f"{RED}{mark}{PLAIN}"
    for line in text.splitlines() or [""]:
        print(f"{mark} {line}", file=sys.stderr, flush=True)


def note_line(text: str) -> None:
    """`note: …` on stderr: worth knowing, nothing to mend."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def is_terminal(stream: object) -> bool:
    """Whether a person is likely to be watching the stream."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM") != "dumb"


def shown_path(path: Path | str) -> str:
    """The path as seen from the working folder, where it lies below it."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextmanager
def progress(label: str) -> Iterator[ProgressFn]:
    """A `ProgressFn` for one piece of work outside a run, shown as a run shows its own."""
    from vlforge.runs.display import Display

    begin = time.monotonic()
    with Display(1) as display:
        display.start(label)
        yield lambda done, total, note: display.progress(label, done, total, note)
        display.finish(label, time.monotonic() - begin, reused=False)


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()
) -> None:
    """A table on stdout: ruled on a terminal, aligned columns elsewhere.

    `right` are the columns to align right, counted from 0.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        _ruled_table(heads, cells, right)
        return
    widths = [max(len(row[i]) for row in [list(heads), *cells]) for i in range(len(heads))]
    for row in [list(heads), *cells]:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())


def _ruled_table(
    heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[int]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for i, head in enumerate(heads):
        shown.add_column(head, justify="right" if i in right else "left", overflow="fold")
    for row in cells:
        # Text, not str: rows hold data, and brackets in data are no markup.
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)
