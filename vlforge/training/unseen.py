"""Looks at a model in the middle of its training without leaving a trace.

Gradients, random numbers, and which modules train are afterwards what they were before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from vlforge.training.batches import generator
from vlforge.training.devices import Devices

_SUBSET = 77
"""Stream of random numbers that chooses held-out rows."""


@contextmanager
def unseen(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; everything is put back at the end."""
    learning = [part for part in module.modules() if part.training]
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.no_grad():
        for part in learning:
            part.training = False
        try:
            yield
        finally:
            for part in learning:
                part.training = True


def some_of(rows: int, most: int, seed: int) -> np.ndarray:
    """At most so many row numbers, the same ones for the same seed; ascending."""
    return np.sort(generator(seed, _SUBSET).permutation(rows)[:most])


def row_losses(
    task: Any, module: nn.Module, rows: np.ndarray, start: int, devices: Devices
) -> list[float]:
    """Mean loss per supervised token of each row alone, everywhere; row by row.

    All devices run as many passes, since some share their modules.

    Args:
        start: the place of the first row in the order that is trained on.
    """
    sums = torch.zeros(len(rows), dtype=torch.float64)
    with unseen(module, devices.device):
        for turn in range(math.ceil(len(rows) / devices.count)):
            place = turn * devices.count + devices.index
            one = np.asarray([place if place < len(rows) else 0])
            loss = module(**task.batch(rows[one], start + one, devices.device))
            if place < len(rows):
                sums[place] = float(loss) / max(1, task.count(rows[one]))
    return devices.total(sums.to(devices.device)).tolist()


def mean_loss(
    task: Any, module: nn.Module, rows: np.ndarray, batch: int, devices: Devices
) -> float:
    """Mean loss per supervised token of all rows, shared out over the devices.

    Rows are taken by length, so that little is padded.

    Args:
        task: of the data that is looked at; `module` may be that of another.
    """
    ranked = rows[np.argsort(task.data.rows.lengths[rows], kind="stable")]
    chunks = [ranked[at : at + batch] for at in range(0, len(ranked), batch)]
    total = torch.zeros(2, dtype=torch.float64)
    with unseen(module, devices.device):
        for turn in range(math.ceil(len(chunks) / devices.count)):
            number = turn * devices.count + devices.index
            chunk = chunks[number if number < len(chunks) else 0]
            places = np.zeros(len(chunk), dtype=np.int64)
            loss = module(**task.batch(chunk, places, devices.device))
            if number < len(chunks):
                total += torch.tensor([float(loss), task.count(chunk)], dtype=torch.float64)
    summed, count = devices.total(total.to(devices.device)).tolist()
    return summed / max(1.0, count)
