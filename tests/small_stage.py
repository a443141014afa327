"""A train stage over a tiny model, and stopping one in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.training import fit
from vlforge.training.config import TrainConfig


def small_stage(folder: Path, **settings) -> TrainConfig:
    """A stage of batches of four over data and parts that are written into the folder."""
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    model = ModelSpec(vision=str(vision), language=str(language))
    shared = {"model": model, "data": str(data), "batch": 4, "template": "vicuna"}
    return TrainConfig(**(shared | settings))


@contextmanager
def stopped_before(step: int) -> Iterator[None]:
    """Training in the block ends as by Ctrl-C before the step, counted from 0."""

    def dies(loop, number, run):
        if number == step:
            raise KeyboardInterrupt
        run(loop, number)

    with _around_steps(dies), pytest.raises(KeyboardInterrupt):
        yield


@contextmanager
def steps_run() -> Iterator[list[int]]:
    """The steps that training in the block runs."""
    ran: list[int] = []
    with _around_steps(lambda loop, number, run: ran.append(number) or run(loop, number)):
        yield ran


@contextmanager
def _around_steps(step: Callable) -> Iterator[None]:
    run = fit._Loop.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit._Loop, "run", lambda loop, number: step(loop, number, run))
        yield
