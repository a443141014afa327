"""`vlforge report`: writes the page of a run, or of one processed dataset, anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.show import plain_line, shown_path
from vlforge.types import DataError

EXAMPLES = """\b
Examples:
  vlforge report runs/quickstart
  vlforge report runs/quickstart/03-filter        one processed dataset
"""


def report(
    folder: Annotated[
        Path, typer.Argument(help="A run, or a stage that processed data.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The page.", show_default="report.html in it, or beside a stage"
        ),
    ] = None,
) -> None:
    """Write the page of a run, or of one processed dataset.

    One file without outside parts: open it in any browser, offline.
    """
    page = out or _beside(folder)
    if (folder / "graph.json").is_file():
        from vlforge.reports.run_report import write_run_report

        write_run_report(folder, page)
    elif (folder / "funnel.json").is_file():
        from vlforge.reports.data_report import write_data_report

        write_data_report(folder, page)
    else:
        what = "holds neither a run (graph.json) nor processed data (funnel.json)"
        missing = "no such folder" if not folder.is_dir() else what
        raise DataError(f"{folder}: {missing}; give a folder such as runs/quickstart")
    plain_line(f"Report  {shown_path(page)}")


def _beside(folder: Path) -> Path:
    """A finished stage holds what its hashes say and no more: its page goes beside it."""
    if (folder / "done.json").is_file():
        return folder.with_name(f"{folder.name}.html")
    return folder / "report.html"
