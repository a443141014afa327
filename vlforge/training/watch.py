"""What is seen of a stage while it trains: files, the terminal's line, trackers, and its guard.

`metrics.jsonl` has a line per step, `eval.jsonl` one per look at held-out rows, and
`spikes.jsonl` one per step that was odd; none holds times. Times go to the run's
`log.jsonl`, `timing.json` and trackers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.training.config import Guard
from vlforge.training.devices import Devices
from vlforge.training.guard import LOOKED_AT, Finding, RowLosses, judge_from, spike_line, worst
from vlforge.training.held_out import Looks
from vlforge.training.metrics import EVALS, SPIKES, Metrics
from vlforge.training.peaks import Peak, device_peak
from vlforge.training.rates import Rates, peak_memory_mb
from vlforge.training.trackers import Trackers
from vlforge.types import LogFn, ModelError, no_log

FINAL_STEPS = 50
"""Steps whose mean loss is a stage's `final_loss`."""
HELD = 10
"""Losses that wait on a GPU before they are fetched, so that no step has to."""
LOG_STEPS, LOG_S = 50, 10.0
"""`log.jsonl` gets a line after so many steps, or so many seconds."""


@dataclass(frozen=True)
class Sight:
    """What a stage wants seen of it besides its loss.

    name_row: where a row stands, for messages.
    flops: of a batch's rows, see `Work`; None where they are not known.
    trackers: made for the step that is gone on from; on the main process alone.
    """

    guard: Guard = field(default_factory=Guard)
    name_row: Callable[[int], str] = "row {}".format
    flops: Callable[[np.ndarray], float] | None = None
    looks: Looks | None = None
    trackers: Callable[[int], Trackers] | None = None


@dataclass
class _Step:
    """A step whose loss may still be on the device."""

    rows: np.ndarray
    sums: Tensor
    norm: Tensor | None
    line: dict[str, Any] = field(default_factory=dict)
    loss: float = math.nan
    skipped: str = ""


class Watch:
    """Takes a step's loss before its update and its line after it; the main process writes.

    Args:
        step: steps that were done before; later lines of an earlier try are cut off.
        lr: what a message about a bad loss names.
        samples: of the whole stage, for the time that is left.
    """

    def __init__(
        self,
        out: Path,
        step: int,
        devices: Devices,
        lr: float,
        samples: int = 0,
        sight: Sight = Sight(),
        log: LogFn = no_log,
    ):
        self.devices, self.lr, self.samples, self.sight = devices, lr, samples, sight
        self.metrics = Metrics(out, step) if devices.is_main else None
        self.evals = Metrics(out, step, EVALS, flush_every=1) if devices.is_main else None
        self.spikes = Metrics(out, step, SPIKES, flush_every=1) if devices.is_main else None
        self.judge = judge_from(self.metrics.read() if self.metrics else (), sight.guard, devices)
        self.eval_loss: float | None = None
        self.note = ""
        self._log = log if devices.is_main else no_log
        self._waiting: list[_Step] = []
        self._current: _Step | None = None
        self._row_losses_left = LOOKED_AT
        self._logged = (step, time.monotonic())
        self._trackers = sight.trackers(step) if devices.is_main and sight.trackers else None
        self.peak = self._find_peak()
        self.rates = Rates(self.peak.flops * devices.count)

    def _find_peak(self) -> Peak:
        """What MFU is a share of; said once."""
        if self.sight.flops is None:
            return Peak(0.0, "the FLOPs of this model are not known")
        peak = device_peak(self.devices.device)
        self._log({"event": "peak", "flops": peak.flops, "how": peak.how})
        return peak

    @property
    def needs_norm(self) -> bool:
        """Whether gradients are to be measured where nothing clips them."""
        return self.judge.decides

    @property
    def is_immediate(self) -> bool:
        """Whether a loss is looked at before its update."""
        return self.devices.device.type == "cpu" or self.judge.decides

    def takes(
        self,
        step: int,
        rows: np.ndarray,
        loss: Tensor,
        norm: Tensor | None = None,
        row_losses: RowLosses | None = None,
    ) -> bool:
        """Whether the update of a step is made; the same on all devices.

        On a GPU without a guard it always is, and a bad loss ends the stage some steps later.

        Args:
            loss: this device's share of what the line will show.
            norm: of the gradients over all devices.
            row_losses: gives the losses of the rows alone, should they be wanted.

        Raises:
            ModelError: a loss that is no number, or that leaps where `on_spike` is stop.
        """
        self._current = _Step(rows, loss, _whole(norm))
        if not self.is_immediate:
            return True
        self._fetch([self._current])
        finding = self._judge(step, self._current)
        if finding is None:
            return True
        self._tell(finding, self._current, row_losses)
        if finding.action == "skip":
            self._current.skipped = finding.kind
        return finding.action != "skip"

    def add(self, line: dict[str, Any]) -> None:
        """The step is done.

        Raises:
            ModelError: a loss that is no number.
        """
        assert self._current is not None
        current, self._current = self._current, None
        current.line = line
        self._waiting.append(current)
        if self.is_immediate or len(self._waiting) >= HELD:
            self.settle()

    def count(self, rows: np.ndarray, tokens: int) -> None:
        """What the step saw, for the rates."""
        flops = self.sight.flops(rows) if self.sight.flops and self.peak.flops else 0.0
        self.rates.add(len(rows), tokens, flops)

    def settle(self) -> None:
        """Fetch the losses that are still on the device and write their lines.

        Raises:
            ModelError: a loss that is no number.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        if not self.is_immediate:
            self._fetch(waiting)
        for step in waiting:
            finding = None if self.is_immediate else self._judge(step.line["step"], step)
            if finding:
                self._tell(finding, step, None)
            self._write(step)
        self._show(waiting[-1])

    def _fetch(self, steps: list[_Step]) -> None:
        losses = self.devices.total(torch.stack([step.sums for step in steps]))
        for step, loss in zip(steps, losses.tolist(), strict=True):
            step.loss = loss

    def _judge(self, step: int, seen: _Step) -> Finding | None:
        # A scale of fp16 that was too large is found by its own means, which skip the step.
        has_scale = self.devices.scaler is not None
        norm = float(seen.norm) if seen.norm is not None and not has_scale else 0.0
        return self.judge.judge(step, seen.loss, not math.isfinite(norm))

    def _tell(self, finding: Finding, step: _Step, row_losses: RowLosses | None) -> None:
        """Keep the rows of an odd step; end the stage where that is wanted."""
        losses = None
        if row_losses is not None and self._row_losses_left:
            self._row_losses_left -= 1
            losses = row_losses()
        names = [self.sight.name_row(int(row)) for row in step.rows]
        line = spike_line(finding, names, losses)
        if self.spikes:
            self.spikes.add(line)
        told = f"{finding.what} at step {finding.step}, with {worst(line)}"
        if finding.action == "stop":
            if self.metrics:
                self.metrics.flush()
            raise ModelError(f"{told} (all its rows: {SPIKES}); {self._remedy(finding)}")
        done = "its update is left out" if finding.action == "skip" else "training goes on"
        self._log({"event": "warning", "text": f"{told}; {done}, see {SPIKES}"})

    def _remedy(self, finding: Finding) -> str:
        if finding.kind == "spike":
            return "look at them, lower optimiser.lr, or set guard.on_spike to skip"
        return (
            f"lower optimiser.lr ({self.lr:g}), take precision bf16 or fp32, "
            "or set guard.nan_steps to leave such steps out"
        )

    def _write(self, step: _Step) -> None:
        is_number = math.isfinite(step.loss)
        line = step.line | {"loss": round(step.loss, 6) if is_number else None}
        if step.skipped:
            line["skipped"] = step.skipped
        if self.metrics:
            self.metrics.add(line)
        if self._trackers:
            values = {"train/loss": line["loss"], "train/lr": line["lr"]}
            if step.norm is not None:
                values["train/grad_norm"] = float(step.norm)
            numbers = {name: v for name, v in values.items() if v is not None and math.isfinite(v)}
            self._trackers.log(numbers, line["step"])

    def _show(self, step: _Step) -> None:
        """The terminal's line, and now and then one in `log.jsonl`."""
        rate, line = self.rates.now(), step.line
        parts = [f"loss {step.loss:.3f}"]
        parts += [] if rate.mfu is None else [f"mfu {rate.mfu:.0%}"]
        parts += [f"wait {rate.wait_share:.0%}", f"{short(rate.tokens_per_second)} tok/s"]
        self.note = "  ".join([*parts, f"{peak_gib():.1f} GiB"])
        steps, at_s = self._logged
        is_due = line["step"] - steps >= LOG_STEPS or time.monotonic() - at_s >= LOG_S
        if not is_due and line["samples"] < self.samples:
            return
        self._logged = (line["step"], time.monotonic())
        left_s = (self.samples - line["samples"]) / max(rate.samples_per_second, 1e-9)
        told = {"step": line["step"], "samples": line["samples"], "of": self.samples}
        told |= {"loss": round(step.loss, 6) if math.isfinite(step.loss) else None}
        told |= {"lr": line["lr"]} | rate.fields() | {"peak_gib": round(peak_gib(), 3)}
        if step.norm is not None and math.isfinite(norm := float(step.norm)):
            told["grad_norm"] = round(norm, 6)
        self._log({"event": "step", **told, "eta_s": round(left_s, 1)})
        if self._trackers:
            speed = {f"speed/{name}": value for name, value in rate.fields().items()}
            self._trackers.log(speed | {"speed/peak_gib": told["peak_gib"]}, line["step"])

    def look(self, module: nn.Module, step: int, before: int, after: int) -> float | None:
        """Look at held-out rows where that is due after a step; gives their loss.

        Args:
            before, after: samples seen before the step and after it.
        """
        looks = self.sight.looks
        if looks is None or not looks.is_due(before, after, self.samples):
            return None
        self.settle()
        with self.rates.aside():
            found = looks.look(module, self.devices)
        if self.evals:
            self.evals.add({"step": step, "samples": after, **found})
        self._log({"event": "looked", "step": step, "samples": after, **found})
        if self._trackers:
            scores = {f"eval/{name}": score for name, score in found.get("benchmarks", {}).items()}
            loss = {"eval/loss": found["eval_loss"]} if "eval_loss" in found else {}
            self._trackers.log(loss | scores, step)
        self.eval_loss = found.get("eval_loss", self.eval_loss)
        return found.get("eval_loss")

    @contextmanager
    def batching(self, task: Any) -> Iterator[None]:
        """Around the making of a batch.

        A task that counts itself what it waits for is asked, any other is timed.
        """
        if hasattr(task, "waited_s"):
            before = task.waited_s
            yield
            self.rates.waited(task.waited_s - before)
            return
        start = time.monotonic()
        yield
        self.rates.waited(time.monotonic() - start)

    def flush(self) -> bool:
        """Write all that was seen; whether the disk took it."""
        self.settle()
        if self.metrics:
            self.metrics.flush()
        return self.metrics is None or not self.metrics.lines

    def close(self) -> None:
        """Let trackers end."""
        if self._trackers:
            self._trackers.close()
        self._trackers = None

    def final_loss(self) -> float:
        """The mean of the last steps."""
        self.settle()
        losses = self.metrics.losses()[-FINAL_STEPS:] if self.metrics else [math.nan]
        return round(sum(losses) / max(1, len(losses)), 6)

    def summary(self) -> dict[str, Any]:
        """What a look and a guard have to say at the end, where they were wanted; no times."""
        found: dict[str, Any] = {} if self.eval_loss is None else {"eval_loss": self.eval_loss}
        if self.judge.decides and self.metrics:
            found["skipped_steps"] = sum("skipped" in line for line in self.metrics.read())
        return found

    def timing(self) -> dict[str, Any]:
        """Rates over all steps of this process."""
        rate = self.rates.whole().fields()
        kept = {
            name: rate[name] for name in ("tokens_per_second", "wait_share", "mfu") if name in rate
        }
        return kept | {"mfu_of": self.peak.how}


def peak_gib() -> float:
    """Most memory that was held."""
    return peak_memory_mb() / 1024


def short(value: float) -> str:
    """`950`, `12.3k`, `1.2M`."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def _whole(norm: Any) -> Tensor | None:
    """A norm as a plain tensor, however it is spread over devices."""
    if norm is None:
        return None
    return norm.full_tensor() if hasattr(norm, "full_tensor") else torch.as_tensor(norm)
