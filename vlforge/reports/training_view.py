"""What every stage of a run cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.reports.run_files import Run, RunNode, number, read_mapping

TRAINING = ("train", "pretrain")


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
