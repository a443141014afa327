"""The optimiser loop that every stage of training goes through.

A `Task` says what a batch is and what its summed loss is; the loop divides by
what the whole global batch holds, so that neither accumulation nor the number
of devices changes a gradient. Steps are numbered, the order of samples is known
before the first one, and random numbers are seeded per step: a resumed run
ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
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
from vlforge.training.checkpoint import Keeper, Progress
from vlforge.training.config import Optimiser
from vlforge.training.devices import Devices
from vlforge.training.metrics import NAME
from vlforge.training.optimiser_groups import make_optimiser, optimiser_groups
from vlforge.training.schedules import Schedule
from vlforge.training.stopping import Stopping, never
from vlforge.training.unseen import row_losses
from vlforge.training.watch import HELD, Sight, Watch
from vlforge.types import LogFn, ModelError, ProgressFn, StageStopped, no_log, no_progress


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
    resume: bool = True
    keep_last: int = 1
    keep_best: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps; the last batch may be short."""
        return math.ceil(len(self.order) / self.batch)

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """What of this decides the numbers, by name."""
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        hashed = {
            "the order of rows": hashlib.sha256(self.order.tobytes()).hexdigest(),
            "what learns": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        }
        plain = {name: getattr(self, name) for name in _DECIDING}
        return plain | {f"optimiser.{k}": v for k, v in asdict(self.optimiser).items()} | hashed


_DECIDING = ("batch", "seed", "micro_batch", "precision", "epoch", "passes", "loss_mean")


@dataclass(frozen=True)
class FitResult:
    """What a run saw and where its loss ended (mean of the last 50 steps).

    `best` is the step whose weights the module has, where those of the least `eval_loss`
    were kept, and that loss. `seen` and `timing` are what `Watch` says of the stage.
    """

    steps: int
    samples: int
    tokens: int
    supervised_tokens: int
    final_loss: float
    seconds: float
    best: tuple[int, float] | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)


def fit(
    task: Task,
    plan: FitPlan,
    out: Path,
    devices: Devices,
    *,
    content: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = never,
    sight: Sight | None = None,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> FitResult:
    """Train `task.module` as planned, resuming from `out/checkpoint` when there is one.

    Args:
        devices: from `open_devices`.
        content: what else decides the numbers, by name; a checkpoint made with other
            values is not resumed.
        stop: asked between steps whether to end early; signals do so too.
        sight: what else is to be seen of it.

    Raises:
        ModelError: the loss is no longer a number, or memory does not suffice.
        StageStopped: it was asked to end; a checkpoint is written.
    """
    loop = _Loop(task, plan, out, devices, log, sight or Sight())
    loop.resume({**(content or {}), **plan.facts(task.module)})
    log({"event": "fit", "from_step": loop.done.step, "steps": plan.steps})
    progress(min(loop.done.step * plan.batch, len(plan.order)), len(plan.order), "starting")
    quick, seen = _quick_on_cpu(task, plan, devices.device), closing(loop.watch)
    with quick, seen, Stopping(stop) as stopping:
        for step in range(loop.done.step, plan.steps):
            loop.end_if(stopping)
            loop.run(step)
            progress(
                min((step + 1) * plan.batch, len(plan.order)), len(plan.order), loop.watch.note
            )
        loop.watch.flush()
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


class _Loop:
    """One run of `fit`: the prepared module, the optimiser and how far it is."""

    def __init__(
        self, task: Task, plan: FitPlan, out: Path, devices: Devices, log: LogFn, sight: Sight
    ):
        self.task, self.plan, self.out, self.devices = task, plan, out, devices
        self.log, self.sight = log, sight
        self.checkpoints = out / "checkpoint"
        self.module = devices.prepare(task.module)
        groups = optimiser_groups(task.module, plan.optimiser, task.parts)
        self.rates = [group["lr"] for group in groups]
        self.optimiser = devices.prepare_optimiser(make_optimiser(groups, plan.optimiser))
        self.schedule = Schedule(plan.optimiser, plan.steps, plan.epoch, plan.passes)
        self.trainable = [p for group in groups for p in group["params"]]
        share = math.ceil(plan.batch / devices.count)
        self.micro_batch = share if plan.micro_batch == "auto" else min(plan.micro_batch, share)

    def resume(self, facts: Mapping[str, Any]) -> None:
        """Go to the latest checkpoint of this run, or to the start."""
        plan = self.plan
        self.keeper = Keeper(
            self.checkpoints,
            facts,
            self.task.module,
            self.optimiser.optimizer,
            self.devices,
            keep_last=plan.keep_last,
            keep_best=plan.keep_best,
            log=self.log,
        )
        self.done = Progress(0)
        if not plan.resume:
            self.keeper.begin_anew()
        elif found := self.keeper.latest():
            self.keeper.load(found)
            self.done = found
            if self.devices.scaler is not None and found.scaler:
                self.devices.scaler.load_state_dict(found.scaler)
        self.saved = self.done.step
        lr, samples = plan.optimiser.lr, len(plan.order)
        self.watch = Watch(
            self.out, self.done.step, self.devices, lr, samples, self.sight, self.log
        )
        self.started = time.monotonic()

    def end_if(self, stopping: Stopping) -> None:
        """Write a checkpoint and end where any process was asked to.

        Raises:
            StageStopped: it was.
        """
        devices, done = self.devices, self.done.step
        asked = bool(stopping)
        if devices.count > 1:
            # Asking all costs a GPU its lead, so it is done from time to time.
            if devices.device.type != "cpu" and done % HELD:
                return
            asked = bool(devices.total(torch.tensor(float(asked), device=devices.device)) > 0)
        if not asked:
            return
        if done > self.saved:
            self._save()
        where = f"step {self.saved} of {self.plan.steps}"
        raise StageStopped(f"stopped; the same command goes on after {where}")

    def run(self, step: int) -> None:
        """One optimiser step, its record, and a checkpoint where one is due."""
        plan, start = self.plan, step * self.plan.batch
        rows = plan.order[start : start + plan.batch]
        self._look_ahead(start + plan.batch)
        factor = self.schedule.factor(step)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        _seed((plan.seed * 1_000_003 + step) * 64 + self.devices.index, self.devices.device)
        loss = self._gradients(rows, start)
        norm = self._clip()

        def alone() -> list[float]:
            return row_losses(self.task, self.module, rows, start, self.devices)

        if self.watch.takes(step + 1, rows, loss, norm, alone):
            self.optimiser.step()
        elif self.devices.scaler is not None:
            self.devices.scaler.update()
        self.optimiser.zero_grad()
        self._record(step, rows, plan.optimiser.lr * factor)
        seen = min(start + plan.batch, len(plan.order))
        score = self.watch.look(self.module, step + 1, start, seen)
        if score is not None:
            self.keeper.offer(score, self.done)
        every = plan.save_every_samples
        if every and start // every != (start + plan.batch) // every and step + 1 < plan.steps:
            self._save()

    def _clip(self) -> Tensor | None:
        """Gradients within their bound; the norm that they had, where anybody wants it."""
        bound = self.plan.optimiser.max_grad_norm
        if bound <= 0 and not self.watch.needs_norm:
            return None
        return self.devices.clip(self.trainable, bound if bound > 0 else math.inf)

    def _look_ahead(self, start: int) -> None:
        """Let what this device sees of the batch at `start` be made ready meanwhile."""
        rows = self.plan.order[start : start + self.plan.batch]
        if len(rows):
            places = np.concatenate(self._passes(rows))
            self.task.prefetch(rows[places], start + places)

    def _passes(self, rows: np.ndarray) -> list[np.ndarray]:
        """Places of this device's rows in a global batch, pass by pass."""
        cut = Cut(len(rows), self.devices.count, self.micro_batch)
        return passes_of(self.task, rows, cut, self.devices.index)

    def _gradients(self, rows: np.ndarray, start: int) -> Tensor:
        """Accumulate gradients of one global batch; halve the micro-batch when memory ends."""
        while True:
            try:
                return self._accumulate(rows, start)
            except torch.cuda.OutOfMemoryError as error:
                can_halve = self.plan.micro_batch == "auto" and self.micro_batch > 1
                if not can_halve or self.devices.count > 1:
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
        devices = self.devices
        rule, whole = self.plan.loss_mean, self.task.count(rows)
        cut = Cut(len(rows), devices.count, self.micro_batch)
        total = torch.zeros((), device=devices.device)
        for part, places in enumerate(self._passes(rows)):
            # A rank without rows still runs the modules: collectives wait for everybody.
            has_rows, places = len(places) > 0, places if len(places) else np.arange(1)
            own = self.task.count(rows[places])
            weight = loss_weight(rule, cut, whole, own) if has_rows else 0.0
            with self.watch.batching(self.task):
                batch = self.task.batch(rows[places], start + places, devices.device)
            is_last = part + 1 == cut.passes
            with devices.passing(self.module, is_last):
                loss = self.module(**batch)
                devices.backward(loss * weight)
            total += loss.detach() * shown_weight(rule, cut, weight)
        return total

    def _record(self, step: int, rows: np.ndarray, lr: float) -> None:
        tokens, supervised = self.task.tokens(rows)
        self.watch.count(rows, tokens)
        self.done = Progress(
            step=step + 1,
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
        self.watch.add(line)

    def _save(self) -> None:
        # A checkpoint whose lines are not on the disk would leave a gap after a kill.
        if not self.devices.agreed(self.watch.flush()):
            self.keeper.say_full(self.out / NAME)
            return
        scaler = self.devices.scaler
        progress = replace(
            self.done,
            seconds=self.done.seconds + time.monotonic() - self.started,
            scaler=scaler.state_dict() if scaler is not None else None,
        )
        if self.keeper.save(progress):
            self.saved = progress.step

    def finish(self) -> FitResult:
        """Close the books; the checkpoint stays until the caller has stored the model."""
        best = self.keeper.put_best()
        return FitResult(
            steps=self.plan.steps,
            samples=len(self.plan.order),
            tokens=self.done.tokens,
            supervised_tokens=self.done.supervised,
            final_loss=self.watch.final_loss(),
            seconds=self.done.seconds + time.monotonic() - self.started,
            best=(best.step, best.score) if best else None,
            seen=self.watch.summary(),
            timing=self.watch.timing(),
        )


def _seed(number: int, device: torch.device) -> None:
    """Seed what a step draws from.

    `torch.manual_seed` asks every kind of device that torch knows, and those that are not
    there keep a traceback of each call until the process ends.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


def drop_checkpoints(out: Path) -> None:
    """Remove `out/checkpoint` once the trained model is stored."""
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
