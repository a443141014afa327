"""How many rows make a step, and how many steps a run: worked out before anything is read.

A recipe names the global batch and leaves the rest to the devices, or names
micro-batch and accumulation as launch scripts do; `expect_global_batch` then says
what must come out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from vlforge.training.config import TrainConfig
from vlforge.training.mixture import budget, mixtures, names_its_rows
from vlforge.types import RecipeError

Size = int | Literal["auto"]


def settle_batch(config: TrainConfig, devices: int) -> TrainConfig:
    """The same stage with its global batch as a number, and a micro-batch that gives it.

    Args:
        devices: processes that train side by side.

    Raises:
        RecipeError: sizes that contradict each other or `expect_global_batch`.
    """
    micro, times = config.micro_batch, config.accumulation
    if config.batch == "auto":
        if micro == "auto":
            raise RecipeError("batch: auto needs micro_batch, the rows of one device and pass")
        batch = micro * (1 if times == "auto" else times) * devices
    else:
        batch = config.batch
        micro = _micro_batch(batch, micro, times, devices)
    if config.expect_global_batch not in (None, batch):
        raise RecipeError(_unexpected(config, batch, micro, devices))
    return replace(config, batch=batch, micro_batch=micro)


def _micro_batch(batch: int, micro: Size, times: Size, devices: int) -> Size:
    """The micro-batch that goes with a global batch and an accumulation."""
    if times == "auto":
        return micro
    if micro == "auto":
        if batch % (times * devices):
            raise RecipeError(
                f"a batch of {batch} does not fall into {times} x {devices} equal parts "
                "(accumulation x devices); change one of them or leave accumulation out"
            )
        return batch // (times * devices)
    if micro * times * devices != batch:
        raise RecipeError(
            f"{_product(micro, times, devices)} (micro_batch x accumulation x devices) is "
            f"{micro * times * devices}, and batch is {batch}; leave one of them out"
        )
    return micro


def _unexpected(config: TrainConfig, batch: int, micro: Size, devices: int) -> str:
    wanted = config.expect_global_batch or 0
    said = f"the global batch is {batch}"
    remedy = f"set batch to {wanted}"
    if config.batch == "auto" and micro != "auto":
        times = 1 if config.accumulation == "auto" else config.accumulation
        said += f" = {_product(micro, times, devices)} (micro_batch x accumulation x devices)"
        fits = wanted % (micro * devices) == 0
        remedy = (
            f"set accumulation to {wanted // (micro * devices)}"
            if fits
            else f"choose a micro_batch that divides {wanted} over {devices} devices"
        )
    return f"{said}, but expect_global_batch is {wanted}: {remedy}"


def _product(micro: int, times: int, devices: int) -> str:
    return f"{micro} x {times} x {devices}"


def check_budget(config: TrainConfig) -> None:
    """Raise for budgets that contradict each other, or none.

    Raises:
        RecipeError: says which, and what to give.
    """
    given = [n for n in ("samples", "steps", "epochs") if getattr(config, n) is not None]
    if len(given) > 1:
        raise RecipeError(f"{' and '.join(given)} are given: take samples or epochs or steps")
    if not given and not names_its_rows(mixtures(config.data)):
        raise RecipeError(
            "a train stage takes samples or epochs or steps, or data that name their rows"
        )
    if config.iters_per_epoch is not None and config.epochs is None:
        raise RecipeError("iters_per_epoch says how long an epoch is: give epochs with it")


def samples_to_see(config: TrainConfig, sizes: Sequence[int], batch: int) -> int:
    """Rows that the budget comes to, of datasets with `sizes` usable rows."""
    if config.steps is not None:
        return config.steps * batch
    if config.iters_per_epoch is not None and config.epochs is not None:
        return math.ceil(config.epochs * steps_per_epoch(config, 0, batch)) * batch
    samples = budget(mixtures(config.data), sizes, config.samples, config.epochs)
    if not config.drop_last:
        return samples
    if samples < batch:
        raise RecipeError(
            f"drop_last leaves nothing of {samples} rows in batches of {batch}; "
            "lower batch or give drop_last: false"
        )
    return samples // batch * batch


def steps_per_epoch(config: TrainConfig, rows: int, batch: int) -> int:
    """Optimiser steps of what a schedule calls an epoch."""
    if config.iters_per_epoch is None:
        return max(1, rows // batch)
    return max(1, config.iters_per_epoch // accumulation_of(config))


def accumulation_of(config: TrainConfig) -> int:
    """Passes that the recipe accumulates; 1 where it leaves that to the devices."""
    return 1 if config.accumulation == "auto" else config.accumulation
