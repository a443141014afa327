"""Data and cost of several runs: what each dropped and why, what each stage took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vlforge.reports import charts, numbers
from vlforge.reports.run_files import RunNode, number, read_mapping
from vlforge.reports.run_sides import Series, alike, joint_label, stages_of

_REASONS = 4
_IDLE = "0"


@dataclass(frozen=True)
class Flow:
    """Rows of one stage for series that share it: what came in, stayed, changed and went."""

    label: str
    tone: int
    rows_in: int
    kept: int
    changed: int
    dropped: int
    steps: Mapping[str, tuple[str, tuple[str, ...]]]
    bar: Markup


@dataclass(frozen=True)
class StageFlow:
    """A stage's rows beside each other; `steps` name what is worth a line.

    idle: steps that all have and that touched no row in any.
    """

    stage: str
    flows: tuple[Flow, ...]
    steps: tuple[str, ...]
    idle: int


@dataclass(frozen=True)
class CostRow:
    """A stage's seconds and largest memory in MB per series; None where it has not run."""

    stage: str
    cells: tuple[tuple[float, float, bool] | None, ...]


def view_flows(series: Sequence[Series]) -> list[StageFlow]:
    """Every stage that read rows and says how many it kept."""
    found = []
    for stage in stages_of(series, "process", "train"):
        flows = [
            flow
            for some, nodes in alike(series, stage, "process", "train")
            if (flow := _flow(joint_label(some), some[0].tone, nodes[0])) is not None
        ]
        is_news = any(flow.dropped or flow.changed for flow in flows)
        if is_news or len({flow.rows_in for flow in flows}) > 1:
            steps = tuple(dict.fromkeys(step for flow in flows for step in flow.steps))
            told = tuple(step for step in steps if _is_told(step, flows))
            found.append(StageFlow(stage, tuple(flows), told, len(steps) - len(told)))
    return found


def view_costs(series: Sequence[Series]) -> list[CostRow]:
    """One row per stage, means over seeds; the last is the sum of seconds and the most memory."""
    names = dict.fromkeys(
        n.stage for one in series for n in one.nodes if n.kind != "report" and n.is_done
    )
    rows = []
    for stage in names:
        cells = [_cost([n for n in one.nodes if n.stage == stage]) for one in series]
        rows.append(CostRow(stage, tuple(cells)))
    totals = [_total([row.cells[k] for row in rows]) for k in range(len(series))]
    return [*rows, CostRow("all stages", tuple(totals))] if rows else []


def _is_told(step: str, flows: Sequence[Flow]) -> bool:
    return any(flow.steps.get(step, ("", ()))[0] != _IDLE for flow in flows)


def _cost(nodes: Sequence[RunNode]) -> tuple[float, float, bool] | None:
    ended = [n for n in nodes if n.is_done and n.seconds]
    if not ended:
        return None
    timings = [number(read_mapping(n.folder / "timing.json").get("peak_mb")) for n in ended]
    peak = max([n.peak_mb for n in ended] + [mb for mb in timings if mb is not None])
    return sum(n.seconds for n in ended) / len(ended), peak, all(n.is_reused for n in ended)


def _total(
    cells: Sequence[tuple[float, float, bool] | None],
) -> tuple[float, float, bool] | None:
    found = [cell for cell in cells if cell is not None]
    if not found:
        return None
    return sum(s for s, _, _ in found), max(mb for _, mb, _ in found), False


def _flow(label: str, tone: int, node: RunNode) -> Flow | None:
    if node.kind == "train":
        return _trained_rows(label, tone, read_mapping(node.folder / "summary.json"))
    funnel = read_mapping(node.folder / "funnel.json")
    rows_in, kept = number(funnel.get("rows_in")), number(funnel.get("rows_out"))
    if rows_in is None or kept is None:
        return None
    steps: dict[str, tuple[str, tuple[str, ...]]] = {}
    bad = number(funnel.get("bad_lines"))
    if bad:
        steps["reading"] = (f"−{numbers.count(bad)}", _reasons(funnel.get("bad_reasons")))
    given = funnel.get("ops")
    ops = [op for op in given if isinstance(op, Mapping)] if isinstance(given, list) else []
    for op in ops:
        name, again = str(op.get("op", "?")), 2
        while name in steps:
            name, again = f"{op.get('op')} {again}", again + 1
        steps[name] = (_op_words(op), _reasons(op.get("reasons")))
    dropped = sum(number(op.get("dropped")) or 0 for op in ops) + (bad or 0)
    changed = sum(number(op.get("changed")) or 0 for op in ops)
    return _flow_of(label, tone, (rows_in, kept, changed, dropped), steps)


def _trained_rows(label: str, tone: int, summary: Mapping[str, Any]) -> Flow | None:
    """Rows that a training stage read; what it could not learn from it dropped."""
    rows_in, kept = number(summary.get("rows_read")), number(summary.get("data_rows"))
    if rows_in is None or kept is None:
        return None
    lost = rows_in - kept
    steps = {"reading": (f"−{numbers.count(lost)}", _reasons(summary.get("dropped")))}
    return _flow_of(label, tone, (rows_in, kept, 0, max(0, lost)), steps if lost > 0 else {})


def _flow_of(
    label: str,
    tone: int,
    counts: tuple[float, float, float, float],
    steps: Mapping[str, tuple[str, tuple[str, ...]]],
) -> Flow:
    rows_in, kept, changed, dropped = counts
    bar = charts.funnel_bar(kept, min(changed, kept), dropped, rows_in)
    return Flow(label, tone, int(rows_in), int(kept), int(changed), int(dropped), steps, bar)


def _op_words(op: Mapping[str, Any]) -> str:
    dropped, changed = number(op.get("dropped")), number(op.get("changed"))
    added = number(op.get("added"))
    signed = (("−", dropped), ("~", changed), ("+", added))
    return " ".join(f"{sign}{numbers.count(rows)}" for sign, rows in signed if rows) or _IDLE


def _reasons(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Mapping):
        return ()
    found = [(str(reason), number(rows) or 0) for reason, rows in value.items()]
    found.sort(key=lambda pair: -pair[1])
    more = len(found) - _REASONS
    told = [f"{numbers.count(rows)} × {reason}" for reason, rows in found[:_REASONS]]
    return tuple([*told, f"{more} more reasons"] if more > 0 else told)
