"""Rows in a shuffled order, and how they become a padded batch.

An order depends on its arguments alone: a run can be resumed at any step, and
more devices see the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlforge.types import IGNORE_INDEX

Ids = Sequence[int] | np.ndarray

GROUP_WINDOW = 50
"""Batches whose samples are sorted together when grouping by length."""


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Random numbers that depend on the seed and on what they are for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed % 2**63, *stream])))


def walk(sizes: Sequence[int], counts: Sequence[int], seed: int) -> np.ndarray:
    """Row numbers of the datasets laid end to end, so many of each, in shuffled order.

    Each dataset is walked in shuffled epochs: no row comes again before every
    row of its dataset has come.

    Args:
        sizes: rows of each dataset; at least 1 where rows are wanted.
        counts: rows to see of each.
        seed: decides the order.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    walks = []
    for number, (rows, count) in enumerate(zip(sizes, counts, strict=True)):
        epochs = -(-count // rows) if count else 0
        order = [generator(seed, 0, number, epoch).permutation(rows) for epoch in range(epochs)]
        chosen = np.concatenate(order)[:count] if order else np.empty(0, dtype=np.int64)
        walks.append(chosen + starts[number])
    if len(walks) == 1:
        return walks[0]
    turns = generator(seed, 1).permutation(np.repeat(np.arange(len(sizes)), counts))
    mixed = np.empty(len(turns), dtype=np.int64)
    for number, chosen in enumerate(walks):
        mixed[turns == number] = chosen
    return mixed


def group_by_length(order: np.ndarray, lengths: np.ndarray, batch: int, seed: int) -> np.ndarray:
    """The same samples, with batches of like length.

    Windows of 50 batches are sorted by length, longest first, and cut into
    batches that are shuffled again; a short last batch stays last.
    """
    whole = len(order) // batch * batch
    grouped = []
    for number, start in enumerate(range(0, whole, GROUP_WINDOW * batch)):
        window = order[start : min(start + GROUP_WINDOW * batch, whole)]
        ranked = window[np.argsort(-lengths[window], kind="stable")].reshape(-1, batch)
        grouped.append(ranked[generator(seed, 2, number).permutation(len(ranked))].reshape(-1))
    return np.concatenate([*grouped, order[whole:]])


@dataclass(frozen=True)
class TokenRows:
    """Encoded rows: ids and labels per row, and what the loop counts.

    lengths: tokens with pictures expanded, [R].
    supervised: tokens that carry a loss, [R].
    images: numbers of the row's pictures.
    """

    ids: list[np.ndarray]
    labels: list[np.ndarray]
    images: list[tuple[int, ...]]
    lengths: np.ndarray
    supervised: np.ndarray

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[Ids, Ids, tuple[int, ...], int]],
    ) -> TokenRows:
        """From (ids, labels, pictures, length) per row."""
        # Half the memory of what they become in a batch: a million rows are kept.
        labels = [np.asarray(row[1], dtype=np.int32) for row in rows]
        return cls(
            ids=[np.asarray(row[0], dtype=np.int32) for row in rows],
            labels=labels,
            images=[row[2] for row in rows],
            lengths=np.asarray([row[3] for row in rows], dtype=np.int64),
            supervised=np.asarray([(row[1:] != IGNORE_INDEX).sum() for row in labels], dtype=int),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def pad(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """ids, labels and mask [B, T], padded on the right with 0, -100, False."""
        lengths = [len(self.ids[row]) for row in rows]
        shape = (len(rows), max(lengths))
        ids = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        mask = np.zeros(shape, dtype=bool)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            ids[place, :length] = self.ids[row]
            labels[place, :length] = self.labels[row]
            mask[place, :length] = True
        return torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(mask)
