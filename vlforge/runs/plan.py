"""What a run will cost, stage by stage, before a weight is read.

Minutes come from the stage's FLOPs and rows at stated rates: good enough to
tell minutes from hours, and a CPU's work from a GPU's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlforge.recipe.graph import Node
from vlforge.recipe.kinds import find_kind
from vlforge.recipe.source import Source
from vlforge.recipe.typed import build
from vlforge.runs.job import Cost, Upstream
from vlforge.runs.kinds.advice import GPU_FLOPS
from vlforge.runs.prepare import Choice, Prepared, prepare
from vlforge.runs.reuse import reusable
from vlforge.runs.store import done_since

CPU_FLOPS_A_THREAD = 4e10
"""What one thread reaches on small fp32 models; an assumption, stated in the plan."""


@dataclass(frozen=True)
class PlanRow:
    """One node's cost. `device` is where it runs; `gpu` whether one would help."""

    node: str
    kind: str
    device: str
    gpu: str
    minutes: float
    disk_gib: float
    memory_gib: float
    cached: bool
    note: str
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All rows, and what they come to. `minutes` is wall time with `jobs` side by side."""

    rows: tuple[PlanRow, ...]
    minutes: float
    disk_gib: float
    memory_gib: float
    jobs: int
    threads: int


def plan_recipe(path: Path | Source, choice: Choice = Choice()) -> Plan:
    """The plan of a recipe; nothing is written and no model is loaded."""
    prepared = prepare(path, choice)
    rows = plan_nodes(prepared)
    to_do = [row for row in rows if not row.cached]
    by_size = sorted((row.memory_gib for row in to_do), reverse=True)
    return Plan(
        rows=tuple(rows),
        minutes=_wall_minutes(prepared, {row.node: row for row in rows}),
        disk_gib=sum(row.disk_gib for row in to_do),
        memory_gib=sum(by_size[: prepared.jobs]),
        jobs=prepared.jobs,
        threads=prepared.threads,
    )


def plan_nodes(prepared: Prepared) -> list[PlanRow]:
    """One row per node, in the order of the graph."""
    upstream: dict[str, Upstream] = {}
    rows = []
    finished = reusable(prepared)
    for node in prepared.nodes:
        inputs = {name: upstream[other] for name, other in node.inputs.items()}
        is_done = node.name in finished or done_since(prepared.folder(node.name), 0.0)
        folder = prepared.folder(node.name) if is_done else None
        upstream[node.name] = Upstream(node.kind, node.settings, inputs, folder)
        cost = _cost(node, inputs)
        rows.append(_row(node, cost, is_done, prepared))
    return rows


def _cost(node: Node, inputs: Mapping[str, Upstream]) -> Cost:
    kind = find_kind(node.kind)
    config = build(kind.config_class(), node.settings, lambda *keys: node.name)
    cost: Cost = kind.module().estimate(config, inputs)
    return cost


def _row(node: Node, cost: Cost, cached: bool, prepared: Prepared) -> PlanRow:
    on_gpu = prepared.device == "cuda" and cost.gpu != "no"
    rate = GPU_FLOPS if on_gpu else CPU_FLOPS_A_THREAD * prepared.threads
    seconds = 0.0 if cached else cost.cpu_s + cost.flops / rate
    return PlanRow(
        node=node.name,
        kind=node.kind,
        device="cuda" if on_gpu else "cpu",
        gpu=cost.gpu,
        minutes=seconds / 60,
        disk_gib=cost.disk_mb / 1024,
        memory_gib=cost.memory_mb / 1024,
        cached=cached,
        note=cost.note,
        advice=cost.advice,
    )


def _wall_minutes(prepared: Prepared, rows: Mapping[str, PlanRow]) -> float:
    """Wall time when `jobs` workers take ready nodes in the graph's order."""
    ends: dict[str, float] = {}
    workers = [0.0] * prepared.jobs
    for node in prepared.nodes:
        ready = max((ends[other] for other in node.inputs.values()), default=0.0)
        worker = min(range(len(workers)), key=workers.__getitem__)
        ends[node.name] = max(ready, workers[worker]) + rows[node.name].minutes
        if rows[node.name].minutes:
            workers[worker] = ends[node.name]
    return max(ends.values(), default=0.0)
