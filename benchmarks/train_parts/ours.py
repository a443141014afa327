"""Our loop over a case: `vlforge.training.loop.train`, watched from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_parts.cases import STAGES

from vlforge.models.config import Lean
from vlforge.training import loop, pictures
from vlforge.training.config import Optimiser, TrainConfig

from .cases import TrainCase
from .made import DATA, MODEL
from .measuring import Meter


def config_of(case: TrainCase, folder: Path) -> TrainConfig:
    """The case as a stage of a recipe."""
    return TrainConfig(
        model=str(folder / MODEL),
        data=str(folder / DATA),
        samples=case.rows,
        batch=case.batch,
        template=case.template,
        train=STAGES[case.stage],
        max_length=case.longest,
        optimiser=Optimiser(lr=case.lr, groups="llava"),
        random_crop=False,
        cache="off",
        image_aspect_ratio=case.fit,
        # As `auto` is at the real widths that a scaled-down model stands for.
        lean=Lean(last_layer_rows=True),
        **case.lean,
    )


def train_ours(case: TrainCase, folder: Path, out: Path, meter: Meter) -> dict[str, Any]:
    """Train; the losses of every step and the rows in the order in which they were seen.

    Rows are read and encoded once, before the steps; that counts. Opening and storing the
    model does not. Pictures are decoded as those of a set that memory does not hold, and
    nothing of them is kept: so every second that a picture takes counts too.
    """
    pictures.MEMORY_SHARE = 0.0
    seen: dict[str, Any] = {}
    with _watched(meter, seen), meter.watching():
        loop.train(config_of(case, folder), out, device="cpu")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return {"losses": [json.loads(line)["loss"] for line in lines], "order": seen["order"]}


@contextmanager
def _watched(meter: Meter, seen: dict[str, Any]) -> Iterator[None]:
    """The meter runs while rows are read and while steps are taken."""
    read, fit = loop.read_conversations, loop.fit
    reading = Meter()

    def read_watched(*given: Any, **named: Any) -> Any:
        reading.start()
        data = read(*given, **named)
        reading.stop()
        return data

    def fit_watched(task: Any, plan: Any, *given: Any, **named: Any) -> Any:
        seen["order"] = plan.order.tolist()
        _count_waiting(task, meter)
        meter.start(task.module)
        result = fit(task, plan, *given, **named)
        meter.stop()
        meter.wall_s += reading.wall_s
        meter.cpu_s += reading.cpu_s
        return result

    loop.read_conversations, loop.fit = read_watched, fit_watched
    try:
        yield
    finally:
        loop.read_conversations, loop.fit = read, fit


def _count_waiting(task: Any, meter: Meter) -> None:
    """What making a batch takes is what the step waits for."""
    make = task.batch

    def make_watched(*given: Any) -> Any:
        before = time.perf_counter()
        batch = make(*given)
        meter.wait_s += time.perf_counter() - before
        return batch

    task.batch = make_watched
