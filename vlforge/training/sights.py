"""What a train stage has seen of it, put together from its settings: guard, looks, trackers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlforge.models.folder import ModelFolder
from vlforge.models.native_folder import NativeFolder
from vlforge.text.templates import find_template
from vlforge.training.config import HeldOut, TrainConfig
from vlforge.training.conversations import (
    ConversationData,
    ConversationTask,
    read_conversations,
)
from vlforge.training.devices import Devices
from vlforge.training.held_out import Asked, Looks, check_looks, chosen_rows, leaks, told_leaks
from vlforge.training.native_rows import read_native
from vlforge.training.native_stage import template_of
from vlforge.training.native_task import NativeTask
from vlforge.training.parallel import settle_parallel
from vlforge.training.precision import as_in_a_step
from vlforge.training.rows import Sieve
from vlforge.training.trackers import Trackers, check_trackers, settings_of
from vlforge.training.watch import Sight
from vlforge.training.work import Work
from vlforge.types import LogFn, RecipeError

Ask = Callable[[ModelFolder, Devices], dict[str, float]]
"""Scores of benchmarks of a model that trains; every process calls it."""

_LOOK_BATCH = 8
"""Held-out rows of a pass where `micro_batch` is auto."""


@dataclass(frozen=True)
class Stage:
    """A stage as far as it is made ready, for those that look on.

    order: rows that it trains on; learning: parameters that do; name: as trackers call it.
    """

    config: TrainConfig
    folder: ModelFolder
    data: ConversationData
    order: np.ndarray
    learning: Collection[str]
    has_features: bool
    out: Path
    seed: int
    threads: int = 1
    name: str = "train"


def check_sight(config: TrainConfig) -> None:
    """Raise for what cannot be looked at as the settings say.

    Raises:
        RecipeError: says which setting, and what to give.
    """
    check_trackers(config.trackers)
    check_looks(config.evaluate, config.keep_best)
    guard, shared = config.guard, settle_parallel(config.parallel)
    if guard.window < 1:
        raise RecipeError(f"guard.window is {guard.window}; give at least 1")
    if 0 < guard.spike <= 1:
        raise RecipeError(f"guard.spike is {guard.spike:g} times the median; give more than 1")
    skips = guard.nan_steps > 0 or (guard.spike > 0 and guard.on_spike == "skip")
    if skips and shared.kind == "zero":
        raise RecipeError(
            "guard cannot leave steps out under DeepSpeed, which updates inside of its backward "
            "pass: take parallel ddp or fsdp2, or on_spike warn and nan_steps 0"
        )
    if config.evaluate and config.evaluate.benchmarks and shared.kind != "ddp":
        raise RecipeError(
            f"evaluate.benchmarks needs the whole model on each device and parallel is "
            f"{config.parallel}: take ddp, or an evaluate stage"
        )


def sight_of(stage: Stage, ask: Ask | None, devices: Devices, log: LogFn) -> Sight:
    """All of it; held-out rows are read here.

    Raises:
        DataError: no usable held-out row.
    """
    config = stage.config
    cost = Work.of(stage.folder.model, stage.data, stage.learning, stage.has_features)
    return Sight(
        guard=config.guard,
        name_row=stage.data.place,
        flops=cost,
        looks=_looks(stage, config.evaluate, ask, log) if config.evaluate else None,
        trackers=_trackers(stage, devices, log) if config.trackers else None,
    )


def _looks(stage: Stage, evaluate: HeldOut, ask: Ask | None, log: LogFn) -> Looks:
    config = stage.config
    batch = _LOOK_BATCH if isinstance(config.micro_batch, str) else config.micro_batch
    looks = Looks(evaluate.every_samples, np.empty(0, dtype=np.int64), batch)
    if evaluate.data:
        held = _read(stage, evaluate)
        rows = chosen_rows(evaluate, held, stage.seed)
        found = leaks(held, rows, stage.data, stage.order)
        if found:
            text = told_leaks(found, len(rows), held.place)
            log({"event": "warning", "text": text})
        looks = replace(looks, task=_task(stage.folder, held), rows=rows)
    if evaluate.benchmarks and ask is not None:
        folder = replace(stage.folder, template=config.template)
        looks = replace(looks, ask=_in_precision(ask, folder, config))
    return looks


def _in_precision(ask: Ask, folder: ModelFolder, config: TrainConfig) -> Asked:
    """Asks with the products that the stage trains with: frozen parts may be in half precision."""

    def asked(devices: Devices) -> dict[str, float]:
        with as_in_a_step(devices.device, config.precision):
            return ask(folder, devices)

    return asked


def _read(stage: Stage, evaluate: HeldOut) -> ConversationData:
    config, folder = stage.config, stage.folder
    sieve = Sieve(config.max_length, config.on_too_long, config.on_no_labels)
    if isinstance(folder, NativeFolder):
        asked = replace(config, data=evaluate.data)
        own = {"threads": stage.threads, "scratch": stage.out}
        return read_native(asked, folder.model, template_of(config), sieve, **own)
    return read_conversations(
        evaluate.data,
        folder.model,
        find_template(config.template),
        folder.tokenizer,
        processor=folder.processor,
        sieve=sieve,
        image_root=config.image_root,
        threads=stage.threads,
        scratch=stage.out,
        compat=config.compat,
    )


def _task(folder: ModelFolder | NativeFolder, held: ConversationData) -> Any:
    """Held-out rows as batches, by what the model is."""
    if isinstance(folder, NativeFolder):
        return NativeTask(folder.model, held)
    return ConversationTask(folder.model, held)


def _trackers(stage: Stage, devices: Devices, log: LogFn) -> Callable[[int], Trackers]:
    config, names = stage.config, stage.config.trackers
    project, _, run = stage.name.rpartition("/")
    facts = settings_of(config) | {
        "devices": devices.count,
        "device": str(devices.device.type),
        "rows": len(stage.data.rows),
    }

    def begin(step: int) -> Trackers:
        return Trackers(
            _once(names),
            stage.out,
            project=project or "vlforge",
            run=run,
            step=step,
            settings=facts,
            log=log,
        )

    return begin


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
