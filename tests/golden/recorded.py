"""A reference's recorded batch as a task of our own training loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.models.base import PARTS, Spliced
from vlforge.training.config import Optimiser
from vlforge.training.devices import open_devices
from vlforge.training.fit import FitPlan, fit
from vlforge.types import IGNORE_INDEX


class RecordedLoss(nn.Module):
    """The summed loss of the one batch there is."""

    def __init__(self, model: nn.Module, splice: Callable[[], Spliced]):
        super().__init__()
        self.model, self.splice = model, splice

    def forward(self) -> Tensor:
        """Scalar."""
        return self.model.loss_sum(self.splice())


class RecordedTask:
    """One recorded batch, again at every step; `before` sees the model as a step finds it."""

    parts = PARTS

    def __init__(self, model: nn.Module, splice: Callable[[], Spliced], before: Callable[[], None]):
        self.module: nn.Module = RecordedLoss(model, splice)
        self.before = before
        with torch.no_grad():
            labels = splice().plan.labels
        self.supervised = int((labels[:, 1:] != IGNORE_INDEX).sum())
        self.longest = labels.shape[1]

    def batch(self, rows: np.ndarray, positions: np.ndarray, device: torch.device) -> dict:
        """Nothing that the module does not have."""
        self.before()
        return {}

    def count(self, rows: np.ndarray) -> int:
        """Supervised tokens."""
        return self.supervised

    def tokens(self, rows: np.ndarray) -> tuple[int, int]:
        """Tokens, and those with a loss."""
        return self.longest, self.supervised

    def prefetch(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """There is nothing to come."""


@dataclass
class Seen:
    """What the loop wrote and did: losses and rates by step, norms of gradients unclipped."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


def followed(
    model: nn.Module,
    splice: Callable[[], Spliced],
    optimiser: Optimiser,
    steps: int,
    out: Path,
    *,
    before: Callable[[], None] = lambda: None,
    gradients: Callable[[], None] = lambda: None,
    **plan: Any,
) -> Seen:
    """Train on the recorded batch through `fit`, as a stage does.

    Args:
        gradients: called when a step's gradients are there.
        plan: more of `FitPlan`, such as its epoch.
    """
    devices, seen = open_devices("cpu", "fp32"), Seen()
    out.mkdir(exist_ok=True)
    clip = devices.clip

    def noted(parameters: Any, most: float) -> Any:
        gradients()
        norm = clip(parameters, most)
        seen.norms.append(float(norm))
        return norm

    devices.clip = noted
    task = RecordedTask(model, splice, before)
    order = np.zeros(steps, dtype=np.int64)
    fit(task, FitPlan(order, 1, optimiser, seed=0, **plan), out, devices)
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        seen.losses.append(step["loss"])
        seen.rates.append(step["lr"])
    return seen
