"""The funnel and the scores in the terminal: plain lines, or rich tables in the pages' colours.

Both fit 100 columns. Rich is imported only where a table is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlforge.reports import claims, numbers
from vlforge.reports.run_files import shorten
from vlforge.reports.scores import main_scores, scored_arms

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100
KEPT, CHANGED, DROPPED = "#2e7d5b", "#b7791f", "#b23b3b"
_FUNNEL_HEAD = ("operator", "rows in", "changed", "dropped", "kept", "seconds")


def funnel_rows(funnel: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """`funnel.json` as cells, one row per operator and a total; signs stand with the counts."""
    rows = [
        (
            shorten(str(op.get("op", "?")), 44),
            numbers.count(op.get("rows_in")),
            _signed("~", op.get("changed")),
            _signed("−", op.get("dropped")),
            numbers.count(op.get("rows_out")),
            numbers.figures(op.get("seconds")),
        )
        for op in funnel.get("ops") or []
    ]
    lost = sum(op.get("dropped") or 0 for op in funnel.get("ops") or [])
    lost += funnel.get("bad_lines") or 0
    changed = sum(op.get("changed") or 0 for op in funnel.get("ops") or [])
    total = (
        "all",
        numbers.count(funnel.get("rows_in")),
        _signed("~", changed),
        _signed("−", lost),
        numbers.count(funnel.get("rows_out")),
        numbers.figures(funnel.get("seconds")),
    )
    return [*rows, total]


def funnel_lines(funnel: Mapping[str, Any], width: int = WIDTH) -> list[str]:
    """The funnel as plain lines for a file or a pipe."""
    return aligned(_FUNNEL_HEAD, funnel_rows(funnel), width)


def funnel_table(funnel: Mapping[str, Any]) -> Table:
    """The funnel as a rich table."""
    styles = ("", "", CHANGED, DROPPED, KEPT, "dim")
    return _table(_FUNNEL_HEAD, styles, funnel_rows(funnel))


def score_rows(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and cells of the score table: mean, and its interval in brackets, per arm."""
    names = list(
        dict.fromkeys(n for arm in scored_arms(summary) for n in main_scores(summary[arm]))
    )
    head = ("arm", *(claims.score_label(n) for n in names))
    return head, [
        (shorten(arm, 24), *(_score_cell(summary[arm], n) for n in names))
        for arm in scored_arms(summary)
    ]


def score_lines(summary: Mapping[str, Any], width: int = WIDTH) -> list[str]:
    """The scores as plain lines, the headline first; none where nothing is scored."""
    if not scored_arms(summary):
        return []
    words = f"{claims.headline(summary)} ({claims.seeds_words(summary)})".replace("\u00a0", " ")
    return [*_wrapped(words, width), "", *aligned(*score_rows(summary), width)]


def score_table(summary: Mapping[str, Any]) -> Table:
    """The scores as a rich table."""
    head, rows = score_rows(summary)
    return _table(head, [""] * len(head), rows)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    """Cells in columns: the first to the left, the others to the right; cut at `width`."""
    cells = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = []
    for row in cells:
        first, *others = (
            cell.ljust(w) if k == 0 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip()[:width])
    return lines


def _score_cell(arm: Mapping[str, Any], name: str) -> str:
    if name not in arm["per_seed"]:
        return numbers.NONE
    interval = arm["interval"][name]
    low_high = f" [{numbers.score(interval[0])}, {numbers.score(interval[1])}]" if interval else ""
    return numbers.score(arm[name]) + low_high


def _signed(sign: str, value: Any) -> str:
    return f"{sign}{numbers.count(value)}" if value else numbers.count(value or 0)


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def _table(head: Sequence[str], styles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, width=None)
    for k, (name, style) in enumerate(zip(head, styles, strict=True)):
        table.add_column(name, style=style, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
