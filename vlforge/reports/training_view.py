"""What a page shows of training: loss curves per stage, and what every stage cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlforge.reports import charts, numbers
from vlforge.reports.run_files import Run, RunNode, number, read_lines, read_mapping

CURVE_POINTS = 80
TRAINING = ("train", "pretrain")


@dataclass(frozen=True)
class LossView:
    """One stage's curves; `steps_per_point` steps were averaged into each point."""

    stage: str
    chart: Markup
    steps_per_point: int
    runs: int


@dataclass(frozen=True)
class CostRow:
    """What one stage of one arm took: means over its runs, and the largest memory.

    None where it was not recorded; tokens count picture tokens too.
    """

    stage: str
    arm: str
    runs: int
    samples: float | None
    tokens: float | None
    supervised: float | None
    seconds: float
    peak_mb: float
    is_reused: bool


def view_losses(run: Run, tones: Mapping[str | None, int]) -> list[LossView]:
    """Curves of every training stage, one chart per stage with all arms on one axis."""
    views = []
    nodes = run.of_kind(*TRAINING)
    for stage in dict.fromkeys(n.stage for n in nodes):
        of_stage = distinct([n for n in nodes if n.stage == stage])
        curves, step = _curves(of_stage, tones)
        if curves:
            said = ", ".join(f"{c.label} ends at {numbers.figures(c.mean[-1][1])}" for c in curves)
            chart = charts.loss_chart(curves, f"loss of {stage}: {said}")
            views.append(LossView(stage, chart, step, len(of_stage)))
    return views


def view_costs(run: Run) -> list[CostRow]:
    """One row per stage and arm, stages in the graph's order."""
    done = [n for n in run.nodes if n.is_done and n.kind != "report"]
    groups: dict[tuple[str, str | None], list[RunNode]] = {}
    for node in done:
        groups.setdefault((node.stage, node.arm), []).append(node)
    stages = list(dict.fromkeys(n.stage for n in done))
    ordered = sorted(groups.items(), key=lambda group: stages.index(group[0][0]))
    return [_cost_row(stage, arm, nodes) for (stage, arm), nodes in ordered]


def budgets(run: Run) -> dict[str, float]:
    """Training samples that each arm alone took, per seed; shared stages count for none."""
    totals: dict[str, dict[int, float]] = {}
    for node in run.of_kind(*TRAINING):
        samples = number(read_mapping(node.folder / "summary.json").get("samples"))
        for arm in node.arms if samples is not None else ():
            per_seed = totals.setdefault(arm, {})
            per_seed[node.seed or 0] = per_seed.get(node.seed or 0, 0.0) + samples
    return {arm: max(per_seed.values()) for arm, per_seed in totals.items()}


def distinct(nodes: Sequence[RunNode]) -> list[RunNode]:
    """Nodes without those whose folder is another's: equal work is stored once."""
    seen: dict[Path, RunNode] = {}
    for node in nodes:
        seen.setdefault(node.folder.resolve(), node)
    return list(seen.values())


def _curves(
    nodes: Sequence[RunNode], tones: Mapping[str | None, int]
) -> tuple[list[charts.Curve], int]:
    curves, largest = [], 1
    for arm in dict.fromkeys(n.arm for n in nodes):
        lines = []
        for node in (n for n in nodes if n.arm == arm):
            points, step = _read_curve(node.folder / "metrics.jsonl")
            largest = max(largest, step)
            if points:
                lines.append(points)
        if lines:
            label = _curve_label(nodes, arm)
            shown = lines if len(lines) > 1 else []
            curves.append(charts.Curve(label, tones.get(arm, 1), _mean_curve(lines), shown))
    return curves, largest


def _curve_label(nodes: Sequence[RunNode], arm: str | None) -> str:
    """The arms that share the curve, or plain `loss` where arms make no difference."""
    shared = dict.fromkeys(a for n in nodes if n.arm == arm for a in n.arms)
    return " = ".join(shared) or "loss"


def _read_curve(path: Path) -> tuple[list[tuple[float, float]], int]:
    """(samples, loss) in at most `CURVE_POINTS` points, each the mean of a run of steps."""
    raw = []
    for line in read_lines(path):
        loss, at = number(line.get("loss")), number(line.get("samples", line.get("step")))
        if loss is not None and at is not None:
            raw.append((at, loss))
    step = max(1, math.ceil(len(raw) / CURVE_POINTS))
    pieces = [raw[k : k + step] for k in range(0, len(raw), step)]
    return [(p[-1][0], math.fsum(y for _, y in p) / len(p)) for p in pieces], step


def _mean_curve(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Point by point over seeds; runs of unequal length count where they have points."""
    columns = [[line[k] for line in lines if k < len(line)] for k in range(max(map(len, lines)))]
    return [(column[0][0], math.fsum(y for _, y in column) / len(column)) for column in columns]


def _cost_row(stage: str, arm: str | None, nodes: Sequence[RunNode]) -> CostRow:
    summaries = [read_mapping(n.folder / "summary.json") for n in nodes]
    timings = [read_mapping(n.folder / "timing.json") for n in nodes]
    return CostRow(
        stage=stage,
        arm=arm or "",
        runs=len(nodes),
        samples=_mean([_samples(n, s) for n, s in zip(nodes, summaries, strict=True)]),
        tokens=_mean([number(s.get("tokens")) for s in summaries]),
        supervised=_mean([number(s.get("supervised_tokens")) for s in summaries]),
        seconds=math.fsum(n.seconds for n in nodes) / len(nodes),
        peak_mb=max(
            [n.peak_mb for n in nodes] + [number(t.get("peak_mb")) or 0.0 for t in timings]
        ),
        is_reused=all(n.is_reused for n in nodes),
    )


def _samples(node: RunNode, summary: Mapping[str, Any]) -> float | None:
    """Samples trained on, rows that came in, or questions asked, whichever the stage has."""
    if node.kind == "process":
        return number(read_mapping(node.folder / "funnel.json").get("rows_in"))
    if node.kind == "evaluate":
        metrics = read_mapping(node.folder / "metrics.json")
        counts = [number(m.get("n")) for m in metrics.values() if isinstance(m, Mapping)]
        return math.fsum(c for c in counts if c is not None) if counts else None
    return number(summary.get("samples"))


def _mean(values: Sequence[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return math.fsum(found) / len(found) if found else None
