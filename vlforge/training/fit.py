"""The optimiser loop that every stage of training goes through.

A `Task` says what a batch is and what its summed loss is; the loop divides by
what the whole global batch holds, so that neither accumulation nor the number
of devices changes a gradient. Steps are numbered, the order of samples is known
before the first one, and random numbers are seeded per step: a resumed run
ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.kernels.cpu_products import (
    LONGEST_PLAIN_ATTENTION,
    fast_products,
    plain_attention,
)
from vlforge.training.averaging import Cut, LossMean, loss_weight, shown_weight
from vlforge.training.balance import passes_of
from vlforge.training.checkpoint import (
    Progress,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from vlforge.training.config import Optimiser
from vlforge.training.metrics import Metrics
from vlforge.training.optimiser_groups import make_optimiser, optimiser_groups
from vlforge.training.schedules import Schedule
from vlforge.types import LogFn, ModelError, ProgressFn, RecipeError, no_log, no_progress

FINAL_STEPS = 50
"""Steps whose mean loss is a stage's `final_loss`."""


class Task(Protocol):
    """What a stage learns: a module that gives summed losses, and its batches."""

    module: nn.Module
    parts: Sequence[str]
    longest: int

    def batch(self, rows: np.ndarray, positions: np.ndarray, device: torch.device) -> dict:
        """Keyword arguments of the module for rows drawn at the given positions."""
        ...

    def count(self, rows: np.ndarray) -> int:
        """What the summed loss of these rows is divided by."""
        ...

    def tokens(self, rows: np.ndarray) -> tuple[int, int]:
        """Tokens and supervised tokens of these rows."""
        ...

    def prefetch(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """These rows, drawn at the given positions, come next."""
        ...


@dataclass(frozen=True)
class FitPlan:
    """All that decides the numbers: the order of rows [samples] and how it is stepped through.

    epoch, passes: as `Schedule` takes them.
    """

    order: np.ndarray
    batch: int
    optimiser: Optimiser
    seed: int
    micro_batch: int | Literal["auto"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    save_every_samples: int = 0
    epoch: int = 0
    passes: int = 1
    loss_mean: LossMean = "tokens"

    @property
    def steps(self) -> int:
        """Optimiser steps; the last batch may be short."""
        return math.ceil(len(self.order) / self.batch)

    def digest(self, module: nn.Module, content: str) -> str:
        """Which run this is: order, settings, trainable weights' names, and `content`."""
        settings = asdict(self) | {"order": hashlib.sha256(self.order.tobytes()).hexdigest()}
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        text = json.dumps([settings, names, content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class FitResult:
    """What a run saw and where its loss ended (mean of the last 50 steps)."""

    steps: int
    samples: int
    tokens: int
    supervised_tokens: int
    final_loss: float
    seconds: float


def fit(
    task: Task,
    plan: FitPlan,
    out: Path,
    accelerator: Any,
    *,
    content: str = "",
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> FitResult:
    """Train `task.module` as planned, resuming from `out/checkpoint` when there is one.

    Args:
        accelerator: from `open_accelerator`.
        content: fingerprint of the data; a checkpoint of other data is not resumed.

    Raises:
        ModelError: the loss is no longer a number, or memory does not suffice.
    """
    loop = _Loop(task, plan, out, accelerator)
    loop.resume(plan.digest(task.module, content))
    log({"event": "fit", "from_step": loop.done.step, "steps": plan.steps})
    with _quick_on_cpu(task, plan, loop.accelerator.device):
        for step in range(loop.done.step, plan.steps):
            loop.run(step)
            progress(min((step + 1) * plan.batch, len(plan.order)), len(plan.order), loop.note)
    return loop.finish()


@contextmanager
def _quick_on_cpu(task: Task, plan: FitPlan, device: torch.device) -> Iterator[None]:
    """Products and attention in the way that is fastest on a CPU, where this is one."""
    short = task.longest <= LONGEST_PLAIN_ATTENTION
    if device.type != "cpu" or not (short or plan.precision == "bf16"):
        yield
        return
    with ExitStack() as stack:
        if stack.enter_context(fast_products(plan.precision)):
            stack.enter_context(plain_attention(task.module, task.longest))
        yield


def open_accelerator(device: str, precision: str) -> Any:
    """accelerate's view of the devices this process was given.

    On a CPU bf16 is a matter of products alone, see `kernels.cpu_products`.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        RecipeError: half precision where the device has none.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if on_cpu and device.startswith("cuda"):
        raise RecipeError(f"device {device!r}: this machine has no GPU; take cpu or auto")
    if device not in ("auto", "cpu", "cuda") and not device.startswith("cuda:"):
        raise RecipeError(f"device {device!r} is unknown; take auto, cpu, cuda or cuda:1")
    if not on_cpu and ":" in device:
        torch.cuda.set_device(device)
    if on_cpu and precision == "fp16":
        raise RecipeError("precision fp16 needs a GPU; take bf16 or fp32")
    # One process may run several stages: each opens with its own precision.
    AcceleratorState._reset_state()
    kind = "no" if on_cpu or precision == "fp32" else precision
    return Accelerator(cpu=on_cpu, mixed_precision=kind)


class _Loop:
    """One run of `fit`: the prepared module, the optimiser and how far it is."""

    def __init__(self, task: Task, plan: FitPlan, out: Path, accelerator: Any):
        self.task, self.plan, self.out, self.accelerator = task, plan, out, accelerator
        self.checkpoints = out / "checkpoint"
        groups = optimiser_groups(task.module, plan.optimiser, task.parts)
        self.rates = [group["lr"] for group in groups]
        self.module = accelerator.prepare(task.module)
        self.optimiser = accelerator.prepare(make_optimiser(groups, plan.optimiser))
        self.schedule = Schedule(plan.optimiser, plan.steps, plan.epoch, plan.passes)
        self.trainable = [p for group in groups for p in group["params"]]
        share = math.ceil(plan.batch / accelerator.num_processes)
        self.micro_batch = share if plan.micro_batch == "auto" else min(plan.micro_batch, share)
        self.note = ""
        self.waiting: list[tuple[dict[str, Any], Tensor]] = []

    def resume(self, digest: str) -> None:
        """Go to the latest checkpoint of this run, or to the start."""
        found = find_checkpoint(self.checkpoints, digest)
        self.done = Progress(0, digest)
        if found:
            self.done = found[1]
            load_checkpoint(found[0], self.task.module, self.optimiser.optimizer)
            if self.accelerator.scaler is not None and self.done.scaler:
                self.accelerator.scaler.load_state_dict(self.done.scaler)
        self.is_main = self.accelerator.is_main_process
        self.metrics = Metrics(self.out, self.done.step) if self.is_main else None
        self.started = time.monotonic()

    def run(self, step: int) -> None:
        """One optimiser step, its record, and a checkpoint where one is due."""
        plan, start = self.plan, step * self.plan.batch
        rows = plan.order[start : start + plan.batch]
        self._look_ahead(start + plan.batch)
        factor = self.schedule.factor(step)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        torch.manual_seed((plan.seed * 1_000_003 + step) * 64 + self.accelerator.process_index)
        loss = self._gradients(rows, start)
        if plan.optimiser.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.trainable, plan.optimiser.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._record(step, rows, loss, plan.optimiser.lr * factor)
        every = plan.save_every_samples
        if every and start // every != (start + plan.batch) // every and step + 1 < plan.steps:
            self._save()

    def _look_ahead(self, start: int) -> None:
        """Let what this device sees of the batch at `start` be made ready meanwhile."""
        rows = self.plan.order[start : start + self.plan.batch]
        if len(rows):
            places = np.concatenate(self._passes(rows))
            self.task.prefetch(rows[places], start + places)

    def _passes(self, rows: np.ndarray) -> list[np.ndarray]:
        """Places of this device's rows in a global batch, pass by pass."""
        devices = self.accelerator.num_processes
        cut = Cut(len(rows), devices, self.micro_batch)
        return passes_of(self.task, rows, cut, self.accelerator.process_index)

    def _gradients(self, rows: np.ndarray, start: int) -> Tensor:
        """Accumulate gradients of one global batch; halve the micro-batch when memory ends."""
        while True:
            try:
                return self._accumulate(rows, start)
            except torch.cuda.OutOfMemoryError as error:
                can_halve = self.plan.micro_batch == "auto" and self.micro_batch > 1
                if not can_halve or self.accelerator.num_processes > 1:
                    raise self._say_no_memory(error) from None
                self.micro_batch = math.ceil(self.micro_batch / 2)
                self.optimiser.zero_grad()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                if "allocate memory" not in str(error):
                    raise
                raise self._say_no_memory(error) from None

    def _say_no_memory(self, error: Exception) -> ModelError:
        return ModelError(
            f"out of memory with micro_batch {self.micro_batch}; lower micro_batch or max_length "
            f"({str(error).strip().splitlines()[0][:120]})"
        )

    def _accumulate(self, rows: np.ndarray, start: int) -> Tensor:
        accelerator = self.accelerator
        rule, whole = self.plan.loss_mean, self.task.count(rows)
        cut = Cut(len(rows), accelerator.num_processes, self.micro_batch)
        total = torch.zeros((), device=accelerator.device)
        for part, places in enumerate(self._passes(rows)):
            # A rank without rows still runs the modules: collectives wait for everybody.
            has_rows, places = len(places) > 0, places if len(places) else np.arange(1)
            own = self.task.count(rows[places])
            weight = loss_weight(rule, cut, whole, own) if has_rows else 0.0
            batch = self.task.batch(rows[places], start + places, accelerator.device)
            is_last = part + 1 == cut.passes
            with nullcontext() if is_last else accelerator.no_sync(self.module):
                loss = self.module(**batch)
                accelerator.backward(loss * weight)
            total += loss.detach() * shown_weight(rule, cut, weight)
        return total

    def _record(self, step: int, rows: np.ndarray, loss: Tensor, lr: float) -> None:
        tokens, supervised = self.task.tokens(rows)
        self.done = Progress(
            step=step + 1,
            digest=self.done.digest,
            tokens=self.done.tokens + tokens,
            supervised=self.done.supervised + supervised,
            seconds=self.done.seconds,
        )
        line = {
            "step": step + 1,
            "samples": min((step + 1) * self.plan.batch, len(self.plan.order)),
            "loss": 0.0,
            "lr": lr,
            "tokens": self.done.tokens,
            "supervised_tokens": self.done.supervised,
        }
        self.waiting.append((line, loss))
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu or len(self.waiting) >= 10:
            self._settle()

    def _settle(self) -> None:
        """Fetch the losses that are still on the device and write their lines."""
        if not self.waiting:
            return
        losses = torch.stack([loss for _, loss in self.waiting])
        losses = self.accelerator.reduce(losses, reduction="sum").tolist()
        for (line, _), loss in zip(self.waiting, losses, strict=True):
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss is {loss} at step {line['step']}; lower optimiser.lr "
                    f"({self.plan.optimiser.lr:g}) or take precision bf16 or fp32"
                )
            if self.metrics:
                self.metrics.add(line | {"loss": round(loss, 6)})
        self.note = f"loss {losses[-1]:.3f}"
        self.waiting = []

    def _save(self) -> None:
        self._settle()
        if self.is_main:
            self.metrics.flush()
            scaler = self.accelerator.scaler
            progress = Progress(
                **self.done.__dict__
                | {
                    "seconds": self.done.seconds + time.monotonic() - self.started,
                    "scaler": scaler.state_dict() if scaler is not None else None,
                }
            )
            save_checkpoint(self.checkpoints, progress, self.task.module, self.optimiser.optimizer)
        self.accelerator.wait_for_everyone()

    def finish(self) -> FitResult:
        """Close the books; the checkpoint stays until the caller has stored the model."""
        self._settle()
        losses = self.metrics.losses()[-FINAL_STEPS:] if self.metrics else [math.nan]
        return FitResult(
            steps=self.plan.steps,
            samples=len(self.plan.order),
            tokens=self.done.tokens,
            supervised_tokens=self.done.supervised,
            final_loss=round(sum(losses) / max(1, len(losses)), 6),
            seconds=self.done.seconds + time.monotonic() - self.started,
        )


def drop_checkpoints(out: Path) -> None:
    """Remove `out/checkpoint` once the trained model is stored."""
    shutil.rmtree(out / "checkpoint", ignore_errors=True)


def peak_memory_mb() -> float:
    """Most memory this process held, on the GPU if it used one, in MiB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
