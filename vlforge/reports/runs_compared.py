"""`vlforge compare`: whole runs beside each other, on one page and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.reports import claims, numbers
from vlforge.reports.page import write_page
from vlforge.reports.recipe_diff import Differing, recipe_differences
from vlforge.reports.run_files import shorten
from vlforge.reports.run_sides import Series, Side, by_value, read_sides, series_of
from vlforge.reports.run_view import flat_facts
from vlforge.reports.sides_data import CostRow, view_costs, view_flows
from vlforge.reports.sides_scores import budgets, headline, view_scores
from vlforge.reports.sides_training import differing_budgets, view_curves, view_equal

_UNTOLD = ("command", "argv", "memory_gib")
"""Of the environment: what differs without meaning anything."""
_LINES = 24
"""Settings that the terminal shows."""


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Everything the page and the terminal show of runs, in the order given.

    Runs that have not finished are shown as far as they are.

    Raises:
        DataError: fewer than two, one given twice, or a folder that holds no run.
    """
    sides = read_sides(folders)
    series = series_of(sides)
    panels, spent = view_scores(series), budgets(series)
    unequal = differing_budgets(series, spent)
    return {
        "title": " and ".join(dict.fromkeys(side.run.name for side in sides)),
        "headline": headline(panels, is_fair=not unequal),
        "sides": sides,
        "series": series,
        "panels": panels,
        "budget": _budget_words(series, spent, unequal),
        "unequal": unequal,
        "equal": view_equal(series),
        "settings": recipe_differences([side.run.recipe for side in sides]),
        "environment": _environment(sides),
        "flows": view_flows(series),
        "curves": view_curves(series),
        "costs": view_costs(series),
        "notes": _notes(sides),
    }


def write_runs_page(values: Mapping[str, Any], out: Path) -> None:
    """Write what `compare_runs` found as one page: no scripts, no requests, under 2 MB."""
    write_page(out, "runs_compared.html.j2", lambda scale: dict(values))


def run_rows(sides: Sequence[Side]) -> list[tuple[str, ...]]:
    """Letter, folder and state of each run, for the terminal."""
    return [(side.letter, str(side.run.folder), side.state) for side in sides]


def score_table(values: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and cells: a row per series, a column per score, then samples, seconds, memory."""
    panels, series, total = values["panels"], values["series"], _total(values["costs"])
    head = ("run", *(claims.score_label(p.name) for p in panels), "samples", "seconds", "peak MB")
    spent = budgets(series)
    rows = []
    for k, one in enumerate(series):
        means = [next((r for r in p.rows if r.label == one.label), None) for p in panels]
        cells = [numbers.score(row.mean) if row else numbers.NONE for row in means]
        cost = total[k] if total else None
        seen = sum(spent[one.label].values()) or None
        took = (numbers.figures(cost[0]), numbers.count(cost[1])) if cost else (numbers.NONE,) * 2
        rows.append((one.label, *cells, numbers.count(seen), *took))
    return head, rows


def setting_rows(found: Sequence[Differing]) -> list[tuple[str, ...]]:
    """The first settings that differ, cut to fit."""
    rows = [(one.name, *(shorten(_told(v), 32) for v in one.values)) for one in found[:_LINES]]
    if len(found) > _LINES:
        rows.append((f"… {len(found) - _LINES} more", *("" for _ in found[0].values)))
    return rows


def equal_rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What was measured at equal samples, for the terminal."""
    return [
        (
            f"{row.stage}, {row.what}",
            numbers.count(row.samples),
            *(v or numbers.NONE for v in row.values),
        )
        for row in values["equal"]
    ]


def _told(value: str | None) -> str:
    return numbers.NONE if value is None else value


def _total(costs: Sequence[CostRow]) -> Sequence[tuple[float, float, bool] | None]:
    return costs[-1].cells if costs else ()


def _budget_words(
    series: Sequence[Series], spent: Mapping[str, Mapping[str, float]], unequal: Sequence[str]
) -> str:
    """`equal budget: 9,000 samples each`, or what each saw; "" where nothing trained."""
    totals = {label: sum(stages.values()) for label, stages in spent.items() if stages}
    if len(totals) < 2:
        return ""
    if not unequal and len(set(totals.values())) == 1:
        return f"equal budget: {numbers.count(next(iter(totals.values())))} training samples each"
    return f"training samples: {by_value(series, totals)}"


def _notes(sides: Sequence[Side]) -> list[tuple[str, str]]:
    """Letter and words for every run that has not finished."""
    found = []
    for side in sides:
        if not side.has_begun:
            found.append((side.letter, "no stage has finished"))
        elif side.unfinished:
            left = ", ".join(side.unfinished[:8]) + (" …" if len(side.unfinished) > 8 else "")
            found.append((side.letter, f"{side.state}; left: {left}"))
    return found


def _environment(sides: Sequence[Side]) -> list[Differing]:
    """Facts of the machines and versions that are not the same."""
    facts = [
        {name: value for name, value in flat_facts(side.run.env) if name not in _UNTOLD}
        for side in sides
    ]
    names = dict.fromkeys(name for one in facts for name in one)
    rows = [Differing(name, tuple(one.get(name) for one in facts)) for name in names]
    return [row for row in rows if len({v for v in row.values if v is not None}) > 1]
