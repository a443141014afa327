"""Several processes share a benchmark's questions, each with a model of its own.

There are never more parts than questions. Each process appends to a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlforge.evaluation.answering import Alone, Ask, Outcome, append_rows, patience
from vlforge.evaluation.chats import open_chat
from vlforge.evaluation.config import EvalConfig
from vlforge.inference import crew
from vlforge.inference.crew import device_of
from vlforge.types import Sample


@dataclass(frozen=True)
class _Order:
    """A batch, the longest answer, and the file for its rows."""

    batch: tuple[Ask, ...]
    longest: int
    path: Path | None


def part_path(path: Path, number: int) -> Path:
    """Where a process keeps its rows of the file `path`."""
    return path.with_name(f"{path.stem}.part-{number}{path.suffix}")


@dataclass(frozen=True)
class _Opener:
    """What a process needs to open its model."""

    config: EvalConfig
    device: str

    def __call__(self, number: int, threads: int) -> _Worker:
        chat = open_chat(self.config, device_of(number, self.device), threads)
        return _Worker(Alone(chat, self.config), number)


class _Worker:
    """Answers orders; rows are in the file before they are told of."""

    def __init__(self, alone: Alone, number: int):
        self.alone, self.number = alone, number
        self.notes: tuple[str, ...] = alone.chat.notes

    def open(self, order: _Order) -> list[Sample]:
        """The order's samples with their pictures opened."""
        return self.alone.opened(order.batch)

    def work(self, order: _Order, opened: list[Sample]) -> Outcome:
        """What became of the batch."""
        outcome = self.alone.answer(order.batch, opened, order.longest)
        if order.path is not None:
            append_rows(part_path(order.path, self.number), outcome.rows)
        return outcome


class Crew(crew.Crew):
    """Processes that answer; they start with the first question and keep their models."""

    def __init__(self, config: EvalConfig, count: int, device: str = "auto", threads: int = 0):
        super().__init__(_Opener(config, device), count, threads)

    def answers(
        self,
        batches: Sequence[Sequence[Ask]],
        longest: int,
        path: Path | None,
        *,
        is_first: bool = True,
    ) -> Iterator[Outcome]:
        """What became of every batch, as they come; as `Alone.answers`.

        Raises:
            ModelError: no process is left.
        """
        hope = patience(is_first, self.count)
        orders = (_Order(tuple(batch), longest, path) for batch in batches)
        for done, outcome in enumerate(self.work(orders), 1):
            hope.see(outcome, is_last=done == len(batches))
            yield outcome
