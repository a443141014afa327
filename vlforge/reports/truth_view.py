"""How right the rows are before and after each operator, where the truth is known.

Only a rendered world knows it: `truth.jsonl` names the fault of every seed row, or none.
Operators that rewrite captions end the count, for after them the truth is another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.reports.run_files import Run, RunNode, read_lines, read_mapping

RIGHT = "right"


@dataclass(frozen=True)
class TruthStep:
    """The rows before an operator (or at the end) and how many of them are right."""

    label: str
    rows: int
    right: int

    @property
    def share(self) -> float:
        """Right rows among all, 0 to 1."""
        return self.right / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class FaultLine:
    """How many rows of one fault came in and how many are left."""

    fault: str
    before: int
    after: int


@dataclass(frozen=True)
class TruthView:
    """The path of one process stage through the truth."""

    stage: str
    steps: tuple[TruthStep, ...]
    faults: tuple[FaultLine, ...]


def read_truth(run: Run, node: RunNode) -> dict[str, str]:
    """Fault per row id (`right` for none) of the world that `node` comes from, empty without.

    Every seed renders a world of its own with the same ids, so others must not be read.
    """
    truth: dict[str, str] = {}
    for source in run.ancestors(node):
        for row in read_lines(source.folder / "truth.jsonl"):
            truth[str(row.get("id"))] = str(row.get("fault") or RIGHT)
    return truth


def view_truth(run: Run, node: RunNode) -> TruthView | None:
    """Right rows before and after each operator of `node`, or None where that has no sense.

    None where captions were rewritten before this stage, where fewer than half of its rows
    are known, or where nothing was dropped.
    """
    before = [n for n in run.ancestors(node) if n.kind == "process"]
    truth = read_truth(run, node)
    if not truth or any(_rewriting_op(n.folder) for n in before):
        return None
    stop = _rewriting_op(node.folder)
    drops: dict[str, list[str]] = {}
    for drop in read_lines(node.folder / "dropped.jsonl"):
        drops.setdefault(str(drop.get("op")), []).append(str(drop.get("id")))
    kept = [str(row.get("id")) for row in read_lines(node.folder / "data.jsonl")]
    here = [i for ids in (*drops.values(), kept) for i in ids]
    known = [i for i in here if i in truth]
    if not drops or 2 * len(known) < len(here):
        return None
    return _walk(node, truth, Counter(truth[i] for i in known), drops, stop)


def _walk(
    node: RunNode,
    truth: Mapping[str, str],
    faults: Counter[str],
    drops: Mapping[str, list[str]],
    stop: str | None,
) -> TruthView:
    first = dict(faults)
    steps = [TruthStep("rows in", faults.total(), faults[RIGHT])]
    for op in _op_names(node.folder):
        if op == stop:
            break
        lost = Counter(truth[i] for i in drops.get(op, []) if i in truth)
        if lost:
            faults = faults - lost
            steps.append(TruthStep(f"after {op}", faults.total(), faults[RIGHT]))
    lines = [FaultLine(f, n, faults[f]) for f, n in sorted(first.items(), key=lambda kv: -kv[1])]
    return TruthView(node.stage, tuple(steps), tuple(lines))


def _op_names(folder: Path) -> list[str]:
    ops: Any = read_mapping(folder / "funnel.json").get("ops") or []
    return [str(o.get("op")) for o in ops if isinstance(o, Mapping)]


def _rewriting_op(folder: Path) -> str | None:
    """The first operator that writes captions anew."""
    return next((op for op in _op_names(folder) if "captioning" in op), None)
