"""Several processes share a benchmark's questions, each with a model of its own.

Batches are handed out one by one, so nobody waits for the slowest, and there are never more
parts than questions. Each process appends to a file of its own. One that dies leaves its
batches to the others; all end with the process that started them.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from vlforge.data.fresh_process import start_fresh
from vlforge.evaluation.answering import Alone, Ask, Outcome, append_rows, cores, patience
from vlforge.evaluation.chats import device_of, open_chat
from vlforge.evaluation.config import EvalConfig
from vlforge.types import ModelError, Sample, VLForgeError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class _Order:
    """A batch, the longest answer, and the file for its rows."""

    number: int
    batch: tuple[Ask, ...]
    longest: int
    path: Path | None


def part_path(path: Path, number: int) -> Path:
    """Where a process keeps its rows of the file `path`."""
    return path.with_name(f"{path.stem}.part-{number}{path.suffix}")


class Crew:
    """Processes that answer; they start with the first question and keep their models."""

    def __init__(self, config: EvalConfig, count: int, device: str = "auto", threads: int = 0):
        self.config, self.count, self.device, self.threads = config, count, device, threads
        self.notes: tuple[str, ...] = ()
        self._ready: dict[Connection, list[_Order]] = {}
        self._processes: dict[Connection, Any] = {}
        self._started = 0

    def close(self) -> None:
        """End all of them at once."""
        for process in self._processes.values():
            process.kill()  # what was answered is in the files
            process.join()

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
        orders = [_Order(n, tuple(b), longest, path) for n, b in enumerate(batches)]
        waiting, hope = orders[::-1], patience(is_first, self.count)
        while self._started < min(self.count, len(orders)):
            self._start(self._started)
            self._started += 1
        left = len(orders)
        while left:
            self._hand_out(waiting)
            for pipe in wait(list(self._processes)):
                assert isinstance(pipe, Connection)
                outcome = self._heard(pipe, waiting)
                if outcome is None:
                    continue
                left -= 1
                hope.see(outcome, is_last=left == 0)
                yield outcome

    def _start(self, number: int) -> None:
        threads = max(1, self.threads // self.count) if self.threads else 0
        settings = (self.config, number, self.count, self.device, threads)
        process, pipe = start_fresh(serve, *settings)
        self._processes[pipe] = process

    def _hand_out(self, waiting: list[_Order]) -> None:
        """Give every process a batch, and then a second whose pictures it can open meanwhile."""
        free = [(len(orders), pipe) for pipe, orders in self._ready.items() if len(orders) < 2]
        turns = [(most, pipe) for held, pipe in free for most in range(held, 2)]
        for _, pipe in sorted(turns, key=lambda turn: turn[0])[: len(waiting)]:
            order = waiting.pop()
            self._ready[pipe].append(order)
            with suppress(OSError):  # it died just now, and `wait` will say so
                pipe.send(order)

    def _heard(self, pipe: Connection, waiting: list[_Order]) -> Outcome | None:
        """A message: of one that is ready, of an answered batch, or of a failure."""
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            self._bury(pipe, waiting)
            return None
        if kind == "failed":
            raise value
        if kind == "ready":
            self._ready[pipe] = []
            self.notes = self.notes or value
            return None
        self._ready[pipe].pop(0)
        outcome: Outcome = value
        return outcome

    def _bury(self, pipe: Connection, waiting: list[_Order]) -> None:
        process = self._processes.pop(pipe)
        process.join(5)
        waiting += self._ready.pop(pipe, [])[::-1]
        if not self._processes:
            raise ModelError(
                f"all {self.count} processes died, the last with exit code {process.exitcode} "
                "(-9: out of memory, or by hand); answers are kept, give the same command again"
            )


def serve(
    config: EvalConfig, number: int, count: int, device: str, threads: int, pipe: Connection
) -> None:
    """Answer orders until the one who sends them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _THREADS:
        os.environ[name] = str(threads or max(1, cores() // count))
    orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
    opened: queue.SimpleQueue[tuple[_Order, list[Sample]]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, orders), daemon=True).start()
    try:
        chat = open_chat(config, device_of(number, device), threads)
        alone = Alone(chat, config)
        threading.Thread(target=_open, args=(alone, orders, opened), daemon=True).start()
        pipe.send(("ready", chat.notes))
        while True:
            order, samples = opened.get()
            outcome = alone.answer(order.batch, samples, order.longest)
            if order.path is not None:
                append_rows(part_path(order.path, number), outcome.rows)
            pipe.send(("done", outcome))
    except VLForgeError as error:
        pipe.send(("failed", error))
    except Exception as error:
        pipe.send(("failed", ModelError(f"{type(error).__name__}: {str(error)[:300]}")))


def _listen(pipe: Connection, orders: queue.SimpleQueue[_Order]) -> None:
    """Take orders; without anybody to give them, end at once."""
    try:
        while True:
            orders.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)


def _open(
    alone: Alone,
    orders: queue.SimpleQueue[_Order],
    opened: queue.SimpleQueue[tuple[_Order, list[Sample]]],
) -> None:
    """Open the pictures of what comes next while the model writes."""
    while True:
        order = orders.get()
        opened.put((order, alone.opened(order.batch)))
