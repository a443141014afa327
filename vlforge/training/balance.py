"""Which rows of a global batch a device sees, in which pass.

A step ends when the slowest device does. Rows differ in cost by their pictures and by
their length, so that dealing them out one by one leaves devices waiting; dealt out by
cost, the longest first, all end together. The gradient is the same either way.

Source: longest processing time first, Graham 1969 (at most 4/3 of the best).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vlforge.models.cost import ModelCost
from vlforge.training.averaging import Cut

Shares = list[list[np.ndarray]]
"""Places in the global batch, by device and pass."""


@runtime_checkable
class Sharing(Protocol):
    """A task that says itself how rows are shared out."""

    def share(self, rows: np.ndarray, cut: Cut) -> Shares:
        """Every row once; as many passes for each device as `cut` says."""
        ...


def passes_of(task: Any, rows: np.ndarray, cut: Cut, device: int) -> list[np.ndarray]:
    """Places of a device's rows, pass by pass; a pass may be empty."""
    shares = task.share(rows, cut) if isinstance(task, Sharing) else by_turns(cut)
    return shares[device]


def by_turns(cut: Cut) -> Shares:
    """Row after row to device after device."""
    shares = []
    for device in range(cut.devices):
        mine = np.arange(cut.rows)[device :: cut.devices]
        starts = range(0, cut.passes * cut.micro, cut.micro)
        shares.append([mine[start : start + cut.micro] for start in starts])
    return shares


def by_chunks(cut: Cut) -> Shares:
    """Chunk after chunk to device after device, as transformers' Trainer deals them out.

    A short last batch goes by turns, so that no device is left without rows.
    """
    if cut.rows % (cut.micro * cut.devices):
        return by_turns(cut)
    chunks = np.arange(cut.rows).reshape(cut.passes, cut.devices, cut.micro)
    return [list(chunks[:, device]) for device in range(cut.devices)]


def by_cost(costs: Sequence[float], cut: Cut) -> Shares:
    """The costliest row to the device with least to do, and there to the lightest pass.

    Depends on the arguments alone; a pass holds its rows in ascending order.
    """
    known = [float(cost) for cost in costs]
    devices = _fill(known, cut.devices, cut.passes * cut.micro)
    _even_out(devices, np.asarray(known))
    shares: Shares = []
    for mine in devices:
        parts = _fill([known[place] for place in mine], cut.passes, cut.micro)
        shares.append(
            [np.asarray(sorted(mine[item] for item in part), dtype=np.int64) for part in parts]
        )
    return shares


def _fill(costs: Sequence[float], bins: int, room: int) -> list[list[int]]:
    """Items to the lightest of `bins` that has room, costliest first."""
    made: list[list[int]] = [[] for _ in range(bins)]
    lightest = [(0.0, 0, number) for number in range(bins)]
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        total, count, number = heapq.heappop(lightest)
        made[number].append(item)
        if count + 1 < room:
            heapq.heappush(lightest, (total + costs[item], count + 1, number))
    return made


def _even_out(bins: list[list[int]], costs: np.ndarray) -> None:
    """Swap items between the heaviest bin and the lightest while that brings them closer.

    Bins that are full leave their last items no choice, which this makes up for.
    """
    for _ in range(4 * len(bins)):
        totals = [costs[items].sum() for items in bins]
        heavy, light = bins[int(np.argmax(totals))], bins[int(np.argmin(totals))]
        gap = max(totals) - min(totals)
        if not heavy or not light:
            return
        moved = costs[heavy][:, None] - costs[light][None]
        left = np.abs(gap - 2 * moved)
        one, other = np.unravel_index(int(left.argmin()), left.shape)
        if left[one, other] > gap * 0.999:
            return
        heavy[one], light[other] = light[other], heavy[one]


def row_costs(
    cost: ModelCost,
    lengths: np.ndarray,
    image_tokens: np.ndarray,
    supervised: np.ndarray,
    train: Collection[str],
) -> np.ndarray:
    """FLOPs of each row, encoder and language model: [R] float64.

    Args:
        lengths: tokens with pictures expanded.
        image_tokens: how many of them are pictures'; a picture of fewer tiles counts for
            as much of a whole one as it has of its tokens.
    """
    whole = max(1, cost.image_tokens)
    return np.asarray(
        [
            cost.sample_flops(length - seen, labels, seen / whole, train)
            for length, seen, labels in zip(
                lengths.tolist(), image_tokens.tolist(), supervised.tolist(), strict=True
            )
        ]
    )
