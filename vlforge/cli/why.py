"""`vlforge why`: what happened to one row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.show import plain_line
from vlforge.types import DataError

EXAMPLES = """\b
Examples:
  vlforge why 000123 runs/quickstart
  vlforge why 000123 kept.process         a folder of `vlforge process`
"""


def why(
    row: Annotated[
        str, typer.Argument(metavar="ID", help="A row's id or uid.", show_default=False)
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(help="A run or a processed dataset.", show_default="the newest run"),
    ] = None,
) -> None:
    """Tell what happened to one row of the data.

    Operator by operator: what it measured and its bound, what it changed, and
    which one dropped the row and why. The row is taken through the recipe again
    where the dataset is still there; else the run's records speak.
    """
    from vlforge.runs.why import tell

    for line in tell(folder or newest_run(Path("runs")), row):
        plain_line(line)


def newest_run(runs: Path, command: str = "vlforge why ID FOLDER") -> Path:
    """The run folder under `runs` that was written to last."""
    found = [p for p in runs.glob("*") if p.is_dir() and not p.name.startswith(".")]
    if not found:
        raise DataError(f"no run under {runs.absolute()}; name a run: {command}")
    return max(found, key=lambda p: p.stat().st_mtime)
