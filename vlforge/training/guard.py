"""Looks for losses that are no number or leap, before they reach the weights.

What was seen is judged from rounded losses that stand in `metrics.jsonl` and from nothing
else, and every process judges the same sums: a resumed run, and one over more devices,
leaves out the same steps.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vlforge.training.config import Guard
from vlforge.training.devices import Devices

FEWEST = 10
"""Steps, or a whole shorter window, that must lie behind a step that is called a leap."""
NAMED = 3
"""Rows that a message names."""
LOOKED_AT = 20
"""Bad steps per start of which each row's own loss is computed."""

Kind = Literal["nan", "spike"]
RowLosses = Callable[[], Sequence[float]]
"""Computes the loss of each of a batch's rows alone."""


def shown(loss: float) -> float | None:
    """A loss as `metrics.jsonl` has it."""
    return round(loss, 6) if math.isfinite(loss) else None


@dataclass(frozen=True)
class Finding:
    """A step that is not like the others, and what becomes of it."""

    kind: Kind
    step: int
    loss: float
    median: float | None
    action: Literal["warn", "skip", "stop"]

    @property
    def what(self) -> str:
        """`the loss is nan`, and why that is odd."""
        if self.kind == "nan":
            is_gradient = math.isfinite(self.loss)
            return "a gradient is no number" if is_gradient else f"the loss is {self.loss}"
        times = self.loss / self.median if self.median else math.inf
        return f"the loss is {self.loss:.4g}, {times:.1f} times the median {self.median:.4g}"


class Judge:
    """Takes losses step by step."""

    def __init__(self, guard: Guard):
        self.guard = guard
        self._losses: deque[float] = deque(maxlen=max(1, guard.window))
        self._in_a_row = 0

    @property
    def decides(self) -> bool:
        """Whether a step has to wait for its loss."""
        return self.guard.spike > 0 or self.guard.nan_steps > 0

    def judge(self, step: int, loss: float, has_bad_gradient: bool = False) -> Finding | None:
        """What is odd about the next step, if anything."""
        value = shown(loss)
        if value is None or has_bad_gradient:
            may_skip = self._in_a_row < self.guard.nan_steps
            self.remember(value, may_skip)
            return Finding("nan", step, loss, None, "skip" if may_skip else "stop")
        median = self._median()
        self.remember(value, False)
        if median is not None and value > self.guard.spike * median:
            return Finding("spike", step, value, median, self.guard.on_spike)
        return None

    def _median(self) -> float | None:
        enough = min(FEWEST, self.guard.window)
        if self.guard.spike <= 0 or len(self._losses) < enough:
            return None
        return statistics.median(self._losses)

    def remember(self, loss: float | None, is_left_out: bool) -> None:
        """A step has been; whether it was left out for not being a number."""
        self._in_a_row = self._in_a_row + 1 if is_left_out else 0
        if loss is not None and not is_left_out:
            self._losses.append(loss)

    def state(self) -> torch.Tensor:
        """What the next finding depends on, in a tensor of one size: [2 + window]."""
        state = torch.zeros(2 + max(1, self.guard.window), dtype=torch.float64)
        state[:2] = torch.tensor([self._in_a_row, len(self._losses)])
        state[2 : 2 + len(self._losses)] = torch.tensor(list(self._losses), dtype=torch.float64)
        return state

    def restore(self, state: Sequence[float]) -> None:
        """Go on from what `state` gave."""
        self._in_a_row, count = int(state[0]), int(state[1])
        self._losses.clear()
        self._losses.extend(state[2 : 2 + count])


def judge_from(lines: Iterable[Mapping[str, Any]], guard: Guard, devices: Devices) -> Judge:
    """A judge who has seen the steps of `lines`, which the main process alone has to know."""
    judge = Judge(guard)
    for line in lines:
        judge.remember(line.get("loss"), line.get("skipped") == "nan")
    if devices.count > 1 and judge.decides:
        judge.restore(devices.total(judge.state().to(devices.device)).tolist())
    return judge


def spike_line(
    finding: Finding, names: Sequence[str], losses: Sequence[float] | None
) -> dict[str, Any]:
    """A step's line in `spikes.jsonl`: its rows, and the loss of each where it was computed."""
    rows: list[dict[str, Any]] = [{"row": name} for name in names]
    for row, loss in zip(rows, losses or (), strict=False):
        row["loss"] = shown(loss)
    line: dict[str, Any] = {"step": finding.step, "kind": finding.kind, "action": finding.action}
    line["loss"] = shown(finding.loss)
    if finding.median is not None:
        line["median"] = finding.median
    return line | {"rows": rows}


def _said(loss: float | None) -> str:
    return "no number" if loss is None else f"{loss:.4g}"


def worst(line: Mapping[str, Any]) -> str:
    """The rows of a spike line that a message names: those without a number, then the worst."""

    def badness(row: Mapping[str, Any]) -> float:
        if "loss" not in row:
            return 0.0
        return math.inf if row["loss"] is None else row["loss"]

    ranked = sorted(line["rows"], key=badness, reverse=True)
    named = [row["row"] + (f" ({_said(row['loss'])})" if "loss" in row else "") for row in ranked]
    named = named[:NAMED]
    return ", ".join(named) + (", …" if len(ranked) > NAMED else "")
