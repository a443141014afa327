"""Orders in which batches hold rows of like length, and of one modality, as published.

LLaVA and Mini-Gemini draw an order, cut it into global batches, sort each by length
and deal it out evenly over devices and accumulated passes; XTuner sorts windows of up
to 50 global batches and puts the longest row first. Both keep text-only rows, whose
lengths are given below 0, in batches of their own.

Random numbers are torch's: the same generator state gives the published order.

Source: llava_trainer.py, haotian-liu/LLaVA@c121f04 (the same in dvlab-research/MGM);
length_grouped.py of XTuner 0.1.23.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from vlforge.training.batches import group_by_length
from vlforge.types import RecipeError

Group = Literal["none", "length", "llava", "mgm", "xtuner", "balanced"]

Megabatches = list[list[int]]


def length_groups(
    lengths: Sequence[int], batch: int, chunks: int, generator: torch.Generator | None = None
) -> list[int]:
    """Indices whose global batches are sorted by length and dealt evenly into chunks.

    Args:
        lengths: as they are; negative ones sort backwards, as published.
        batch: rows of a chunk, which is what a device sees in one pass.
        chunks: of a global batch: devices times accumulated passes.
        generator: None is torch's own.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    whole: list[int] = []
    for megabatch in _cut(order, batch * chunks):
        ranked = sorted(megabatch, key=lambda index: lengths[index], reverse=True)
        whole += [index for chunk in _even_chunks(ranked, lengths, chunks) for index in chunk]
    return whole


def modality_groups(
    lengths: Sequence[int], batch: int, chunks: int, generator: torch.Generator | None = None
) -> list[int]:
    """`length_groups` of rows with pictures and of those without, then batches shuffled.

    What is left of both makes one last batch, in order of the indices. The two halves
    are drawn from torch's own generator, the order of batches from `generator`.

    Args:
        lengths: below 0 for rows without pictures; where all have one sign, the rows
            are grouped as one half.

    Raises:
        RecipeError: a length of 0.
    """
    _check(lengths)
    if _one_sign(lengths):
        return length_groups(lengths, batch, chunks, generator)
    halves = []
    for rows in _halves(lengths):
        order = length_groups([abs(lengths[row]) for row in rows], batch, chunks)
        halves.append(_cut([rows[place] for place in order], batch * chunks))
    megabatches, rest = _shuffled(halves, generator)
    return [index for megabatch in [*megabatches, sorted(rest)] for index in megabatch]


def xtuner_groups(
    lengths: Sequence[int], group: int, generator: torch.Generator | None = None
) -> list[int]:
    """Windows of `group` rows of one modality, each longest first; the longest row leads.

    Raises:
        RecipeError: a length of 0.
    """
    _check(lengths)
    sizes = [abs(length) for length in lengths]
    if _one_sign(lengths):
        # As they are: a set of texts alone is sorted backwards.
        megabatches = _ranked(list(range(len(sizes))), lengths, group, generator)
    else:
        halves = [_ranked(rows, sizes, group, generator) for rows in _halves(lengths)]
        megabatches, rest = _shuffled(halves, generator)
        megabatches.append(sorted(rest, key=lambda index: sizes[index], reverse=True))
    longest = int(np.argmax([sizes[megabatch[0]] for megabatch in megabatches]))
    first, other = megabatches[0][0], megabatches[longest][0]
    megabatches[0][0], megabatches[longest][0] = other, first
    return [index for megabatch in megabatches for index in megabatch]


def xtuner_window(rows: int, batch: int) -> int:
    """Rows of a window, for a global batch of `batch` rows."""
    return max(min(rows // (batch * 4), 50), 1) * batch


def xtuner_order(
    lengths: Sequence[int], batch: int, devices: int, seed: int, epoch: int
) -> list[int]:
    """One epoch for all devices, of which device d takes every `devices`-th row from d on.

    Rows from the start come again at the end, so that all devices have whole batches.

    Args:
        batch: rows that a device sees before it steps.
    """
    generator = torch.Generator()
    generator.manual_seed(seed + epoch)
    order = xtuner_groups(lengths, xtuner_window(len(lengths), batch * devices), generator)
    total = math.ceil(len(order) / (batch * devices)) * batch * devices
    return (order * (total // len(order) + 1))[:total]


def regroup(
    order: np.ndarray,
    rule: Group,
    lengths: np.ndarray,
    signed: np.ndarray,
    batch: int,
    micro_batch: int,
    seed: int,
) -> np.ndarray:
    """The same samples in another order.

    The published rules see one epoch at a time: so many drawn rows as there are, in
    the order of the data. What does not fill an epoch's last batch comes at the end of
    the run, so that every batch before is a group; no row is repeated to fill it.

    Args:
        order: row numbers as drawn.
        lengths: tokens of each row, pictures expanded.
        signed: what the rule measures of each row, below 0 without pictures.
        batch: rows of a global batch.
        micro_batch: rows of a pass on one device.
    """
    if rule in ("none", "balanced"):
        return order
    if rule == "length":
        return group_by_length(order, lengths, batch, seed)
    whole, rests = [], []
    for epoch, start in enumerate(range(0, len(order), len(lengths))):
        rows = np.sort(order[start : start + len(lengths)])
        given = signed[rows].tolist()
        if rule == "xtuner":
            places = xtuner_order(given, batch, 1, seed, epoch)[: len(rows)]
        else:
            places = _from_seed(modality_groups, given, batch, micro_batch, seed + epoch)
        drawn = rows[np.asarray(places, dtype=np.int64)]
        fits = len(drawn) // batch * batch
        whole.append(drawn[:fits])
        rests.append(drawn[fits:])
    return np.concatenate([*whole, *rests])


def _from_seed(
    rule: Callable[..., list[int]], lengths: list[int], batch: int, micro: int, seed: int
) -> list[int]:
    """Draws from torch's generator, which afterwards is where it was."""
    chunks = 1 if batch % micro else batch // micro
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return rule(lengths, batch // chunks, chunks)


def _check(lengths: Sequence[int]) -> None:
    if 0 in lengths:
        raise RecipeError(f"row {list(lengths).index(0)} has length 0: it cannot be grouped")


def _one_sign(lengths: Sequence[int]) -> bool:
    return all(length > 0 for length in lengths) or all(length < 0 for length in lengths)


def _halves(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Indices with pictures, and without."""
    places = range(len(lengths))
    return [n for n in places if lengths[n] > 0], [n for n in places if lengths[n] < 0]


def _cut(order: Sequence[int], size: int) -> Megabatches:
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def _ranked(
    rows: Sequence[int], sizes: Sequence[int], group: int, generator: torch.Generator | None
) -> Megabatches:
    drawn = [rows[place] for place in torch.randperm(len(rows), generator=generator).tolist()]
    return [
        sorted(megabatch, key=lambda index: sizes[index], reverse=True)
        for megabatch in _cut(drawn, group)
    ]


def _shuffled(
    halves: Sequence[Megabatches], generator: torch.Generator | None
) -> tuple[Megabatches, list[int]]:
    """All batches but each half's last one, shuffled; and what those two hold."""
    pool = [megabatch for half in halves for megabatch in half[:-1]]
    rest = [index for half in halves for index in half[-1]]
    places = torch.randperm(len(pool), generator=generator).tolist()
    return [pool[place] for place in places], rest


def _even_chunks(ranked: Sequence[int], lengths: Sequence[int], chunks: int) -> Megabatches:
    """Chunks of equal size, each row to the shortest chunk that is not full."""
    if len(ranked) % chunks:
        return [list(ranked[start::chunks]) for start in range(chunks)]
    size = len(ranked) // chunks
    made: Megabatches = [[] for _ in range(chunks)]
    totals: list[float] = [0.0] * chunks
    for index in ranked:
        shortest = totals.index(min(totals))
        made[shortest].append(index)
        totals[shortest] += lengths[index]
        if len(made[shortest]) == size:
            totals[shortest] = math.inf
    return made
