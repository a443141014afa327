"""What a stage is measured by while it trains: rows that it does not learn, and benchmarks.

`eval.jsonl` has a line per look, without times. A look changes nothing of the training:
the weights are those of a stage that nobody looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from vlforge.training.config import HeldOut
from vlforge.training.devices import Devices
from vlforge.training.unseen import mean_loss, some_of, unseen
from vlforge.types import DataError, RecipeError

if TYPE_CHECKING:
    from vlforge.training.conversations import ConversationData

Asked = Callable[[Devices], dict[str, float]]
"""Asks the model that trains some questions of benchmarks; gives scores by name."""


@dataclass(frozen=True)
class Looks:
    """When to look, and at what.

    task: the held-out rows as a task over the model that trains, or None.
    ask: scores of benchmarks, or None.
    """

    every_samples: int
    rows: np.ndarray
    batch: int
    task: Any = None
    ask: Asked | None = None

    def is_due(self, before: int, after: int, last: int) -> bool:
        """Whether a step from `before` to `after` samples, of `last`, is looked at."""
        every = self.every_samples
        return after >= last or bool(every and before // every != after // every)

    def look(self, module: nn.Module, devices: Devices) -> dict[str, Any]:
        """What `eval.jsonl` says besides the step; the same on all devices."""
        found: dict[str, Any] = {}
        if self.task is not None:
            loss = mean_loss(self.task, module, self.rows, self.batch, devices)
            found = {"eval_loss": round(loss, 6), "eval_rows": len(self.rows)}
        if self.ask is not None:
            with unseen(module, devices.device):
                found["benchmarks"] = self.ask(devices)
        return found


def check_looks(evaluate: HeldOut | None, keep_best: bool) -> None:
    """Raise for settings that cannot work.

    Raises:
        RecipeError: says which, and what to give.
    """
    if evaluate is None:
        if keep_best:
            raise RecipeError("keep_best needs evaluate.data: the best is that of the least loss")
        return
    if not evaluate.data and not evaluate.benchmarks:
        raise RecipeError("evaluate has neither data nor benchmarks: give one of them")
    if keep_best and not evaluate.data:
        raise RecipeError("keep_best needs evaluate.data: the best is that of the least loss")
    for name in ("rows", "benchmark_rows"):
        if getattr(evaluate, name) < 1:
            raise RecipeError(f"evaluate.{name} is {getattr(evaluate, name)}; give at least 1")


def chosen_rows(evaluate: HeldOut, data: ConversationData, seed: int) -> np.ndarray:
    """The held-out rows that are looked at."""
    return some_of(len(data.rows), evaluate.rows, seed)


def leaks(
    held: ConversationData, looked_at: np.ndarray, data: ConversationData, trained: np.ndarray
) -> list[tuple[int, int]]:
    """Held-out rows that are also trained on, each with one such row: (held-out, trained).

    Rows are the same where ids, labels and the content of their pictures are.
    """
    wanted: dict[bytes, list[int]] = {}
    for row in looked_at.tolist():
        wanted.setdefault(_words(held, row), []).append(row)
    found: dict[int, int] = {}
    held_pictures, pictures = _Contents(held), _Contents(data)
    for row in np.unique(trained).tolist():
        for own in wanted.get(_words(data, row), ()):
            if own not in found and held_pictures.of(own) == pictures.of(row):
                found[own] = row
    return sorted(found.items())


def told_leaks(found: Sequence[tuple[int, int]], rows: int, name: Callable[[int], str]) -> str:
    """One line for the user; `name` says where a held-out row stands."""
    named = ", ".join(name(row) for row, _ in found[:3]) + (", …" if len(found) > 3 else "")
    return (
        f"{len(found)} of {rows} held-out rows are also trained on ({named}): eval_loss looks "
        "better than it is; give evaluate.data other rows"
    )


def _words(data: ConversationData, row: int) -> bytes:
    """A digest of a row's ids and labels."""
    ids, labels = data.rows.row(row)
    digest = hashlib.blake2b(np.ascontiguousarray(ids, dtype=np.int32).tobytes(), digest_size=16)
    digest.update(np.ascontiguousarray(labels, dtype=np.int32).tobytes())
    return digest.digest()


class _Contents:
    """Digests of pictures' bytes, each read once."""

    def __init__(self, data: ConversationData):
        self._data = data
        self._known: dict[int, bytes] = {}

    def of(self, row: int) -> tuple[bytes, ...]:
        """Of a row's pictures, in order."""
        return tuple(map(self._digest, self._data.rows.images[row]))

    def _digest(self, image: int) -> bytes:
        if image not in self._known:
            try:
                source = self._data.pictures.sources[image]
                content = Path(source).read_bytes() if isinstance(source, str) else source.read()
            except (OSError, DataError):
                # Equal to nothing: a picture that cannot be read is not trained on either.
                content = f"unreadable {id(self)} {image}".encode()
            self._known[image] = hashlib.blake2b(content, digest_size=16).digest()
        return self._known[image]
