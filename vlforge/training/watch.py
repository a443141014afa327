"""What is seen of a stage while it trains: `metrics.jsonl` and the line in the terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlforge.training.devices import Devices
from vlforge.training.metrics import Metrics
from vlforge.types import ModelError

FINAL_STEPS = 50
"""Steps whose mean loss is a stage's `final_loss`."""
HELD = 10
"""Losses that wait on a GPU before they are fetched, so that no step has to."""


class Watch:
    """Takes a line and a loss per step, in order; writes on the main process alone.

    Args:
        step: steps that were done before; later lines of an earlier try are cut off.
        lr: what a message about a bad loss names.
    """

    def __init__(self, out: Path, step: int, devices: Devices, lr: float):
        self.devices, self.lr = devices, lr
        self.metrics = Metrics(out, step) if devices.is_main else None
        self.note = ""
        self._waiting: list[tuple[dict[str, Any], Tensor]] = []

    def add(self, line: dict[str, Any], loss: Tensor) -> None:
        """One step; `loss` is this device's share of what the line will show."""
        self._waiting.append((line, loss))
        if self.devices.device.type == "cpu" or len(self._waiting) >= HELD:
            self.settle()

    def settle(self) -> None:
        """Fetch the losses that are still on the device and write their lines.

        Raises:
            ModelError: a loss that is no number.
        """
        if not self._waiting:
            return
        losses = self.devices.total(torch.stack([loss for _, loss in self._waiting])).tolist()
        for (line, _), loss in zip(self._waiting, losses, strict=True):
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss is {loss} at step {line['step']}; lower optimiser.lr "
                    f"({self.lr:g}) or take precision bf16 or fp32"
                )
            if self.metrics:
                self.metrics.add(line | {"loss": round(loss, 6)})
        self.note = f"loss {losses[-1]:.3f}"
        self._waiting = []

    def flush(self) -> None:
        """Write all that was seen."""
        self.settle()
        if self.metrics:
            self.metrics.flush()

    def final_loss(self) -> float:
        """The mean of the last steps."""
        self.settle()
        losses = self.metrics.losses()[-FINAL_STEPS:] if self.metrics else [math.nan]
        return round(sum(losses) / max(1, len(losses)), 6)
