"""Rows in a shuffled order, and how they become a padded batch.

An order depends on its arguments alone: a run can be resumed at any step, and
more devices see the same batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Tokens(Protocol):
    """Ids and labels of all rows, one behind the other: an array, or a file."""

    def __getitem__(self, at: slice) -> np.ndarray:
        """int32."""
        ...


@dataclass(frozen=True)
class TokenRows:
    """Encoded rows, in memory or on disk, and what must be known of them before the first step.

    tokens: a row's ids and behind them its labels, from `starts` on, [2 T] each.
    starts, texts: where each row begins in `tokens`, and how many ids it has, [R].
    lengths: tokens with pictures expanded, [R].
    supervised: tokens that carry a loss, [R].
    images: numbers of the row's pictures.
    """

    tokens: Tokens
    starts: np.ndarray
    texts: np.ndarray
    lengths: np.ndarray
    supervised: np.ndarray
    images: RowImages

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[Ids, Ids, tuple[int, ...], int]],
    ) -> TokenRows:
        """In memory, from (ids, labels, pictures, length) per row."""
        texts = np.asarray([len(row[0]) for row in rows], dtype=np.int64)
        # Half the memory of what they become in a batch: a million rows are kept.
        parts = [np.asarray(part, dtype=np.int32) for row in rows for part in row[:2]]
        return cls(
            tokens=np.concatenate(parts) if parts else np.empty(0, dtype=np.int32),
            starts=2 * (np.cumsum(texts) - texts),
            texts=texts,
            lengths=np.asarray([row[3] for row in rows], dtype=np.int64),
            supervised=np.asarray(list(map(count_supervised, parts[1::2])), dtype=np.int64),
            images=RowImages.of([row[2] for row in rows]),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def chosen(self, rows: np.ndarray) -> TokenRows:
        """Some of the rows, in the order given; nothing is copied but their numbers."""
        return TokenRows(
            tokens=self.tokens,
            starts=self.starts[rows],
            texts=self.texts[rows],
            lengths=self.lengths[rows],
            supervised=self.supervised[rows],
            images=self.images.chosen(rows),
        )

    def row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """ids and labels [T]."""
        start, length = int(self.starts[row]), int(self.texts[row])
        found = self.tokens[start : start + 2 * length]
        return found[:length], found[length:]

    def pad(self, rows: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """ids, labels and mask [B, T], padded on the right with 0, -100, False."""
        lengths = [int(self.texts[row]) for row in rows]
        shape = (len(rows), max(lengths))
        ids = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        mask = np.zeros(shape, dtype=bool)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            ids[place, :length], labels[place, :length] = self.row(row)
            mask[place, :length] = True
        return torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(mask)


def count_supervised(labels: np.ndarray) -> int:
    """Labels that a loss is taken of: the first is never foreseen."""
    return int((labels[1:] != IGNORE_INDEX).sum())


@dataclass(frozen=True)
class RowImages:
    """Numbers of each row's pictures, as tuples.

    numbers: those of all rows, one behind the other.
    starts, counts: where each row's begin, and how many they are, [R].
    """

    numbers: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, images: Sequence[tuple[int, ...]]) -> RowImages:
        """From the numbers of each row."""
        counts = np.asarray(list(map(len, images)), dtype=np.int64)
        numbers = np.asarray([one for row in images for one in row], dtype=np.int64)
        return cls(numbers, np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, row: int) -> tuple[int, ...]:
        start = self.starts[row]
        return tuple(self.numbers[start : start + self.counts[row]].tolist())

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return (self[row] for row in range(len(self)))

    def chosen(self, rows: np.ndarray) -> RowImages:
        """Those of some rows, in the order given."""
        return RowImages(self.numbers, self.starts[rows], self.counts[rows])

    def having(self, images: Collection[int]) -> np.ndarray:
        """Rows with one of these pictures, in order."""
        hits = np.isin(self.numbers, np.fromiter(images, dtype=np.int64, count=len(images)))
        before = np.concatenate([[0], np.cumsum(hits)])
        return np.flatnonzero(before[self.starts + self.counts] > before[self.starts])
