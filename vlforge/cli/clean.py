"""`vlforge clean`: disk space of a run that nothing needs any more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.show import is_terminal, note_line, plain_line, shown_path, table
from vlforge.types import RecipeError

EXAMPLES = """\b
Examples:
  vlforge clean runs/mgm_2b --dry-run      what would go, and how many GB
  vlforge clean runs/mgm_2b                asks first
  vlforge clean runs/mgm_2b --yes
"""
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)
]


def clean(
    run: RunFolder,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Free what later stages of a run no longer need.

    Weights that only finished stages went on from, checkpoints before the last, stages begun
    with other settings. Final models, scores, reports and data stay; the same `vlforge run`
    works as before, and makes again what it should need.
    """
    from vlforge.runs.cleaning import Found, find_waste, free
    from vlforge.runs.store import hold

    found = find_waste(run)
    for node, why in found.kept:
        note_line(f"{node} stays: {why}")
    if not found.waste:
        plain_line(f"{shown_path(run)}: nothing can be freed")
        return
    rows = [(one.node, one.what, size_text(one.bytes), one.why) for one in found.waste]
    table(("stage", "what", "size", "why it can go"), rows, right=(2,))
    total = size_text(found.bytes)
    if dry_run:
        plain_line(f"{total} would be freed; nothing was removed")
        return
    if not yes:
        _ask(total)
    with hold(run):
        again: Found = find_waste(run)
        freed = free(again)
    plain_line(f"{size_text(freed)} freed of {shown_path(run)}")


def _ask(total: str) -> None:
    """Go on only when told to.

    Raises:
        RecipeError: nobody is there to ask.
        Exit: the answer is no.
    """
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise RecipeError(f"{total} would be freed: --yes does it, --dry-run only looks")
    if not typer.confirm(f"Free {total}?"):
        plain_line("Nothing was removed")
        raise typer.Exit()


def size_text(count: int) -> str:
    """Bytes in GB; small ones in MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
