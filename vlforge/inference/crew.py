"""Processes with a model each that share what is to be answered.

Orders are handed out one by one, so nobody waits for the slowest. A process opens the
pictures of its next order while its model writes. One that dies leaves its orders to the
others; all end with the process that started them.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from vlforge.data.fresh_process import start_fresh
from vlforge.data.interrupts import ignore_interrupts
from vlforge.data.machine import cores
from vlforge.types import ModelError, VLForgeError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_HELD = 2
"""Orders that a process has at once: one in work, one whose pictures are opened."""


class Worker(Protocol):
    """A model that answers order after order."""

    notes: tuple[str, ...]

    def open(self, order: Any) -> Any:
        """What can be made ready in a thread while the order before is worked on."""
        ...

    def work(self, order: Any, opened: Any) -> Any:
        """What becomes of the order."""
        ...


class Crew:
    """Processes that work; they start with the first orders and keep their models.

    Args:
        opener: gives the worker of a process by its number and its threads, 0 for the
            model's own choice; it travels there.
        count: processes at most.
        threads: of all together; 0: share the cores.
    """

    def __init__(self, opener: Callable[[int, int], Worker], count: int, threads: int = 0):
        self.opener, self.count, self.threads = opener, count, threads
        self.notes: tuple[str, ...] = ()
        self._ready: dict[Connection, list[Any]] = {}
        self._processes: dict[Connection, Any] = {}
        self._started = 0

    def close(self) -> None:
        """End all of them at once."""
        for process in self._processes.values():
            process.kill()
            process.join()

    def work(self, orders: Iterable[Any]) -> Iterator[Any]:
        """What became of every order, as they come; orders are taken a few before their turn.

        Raises:
            ModelError: no process is left.
        """
        source, waiting = iter(orders), deque[Any]()
        self._fill(waiting, source)
        while self._started < min(self.count, len(waiting)):
            self._start(self._started)
            self._started += 1
        while waiting or any(self._ready.values()):
            self._hand_out(waiting)
            for pipe in wait(list(self._processes)):
                assert isinstance(pipe, Connection)
                outcome = self._heard(pipe, waiting)
                if outcome is not None:
                    yield outcome[0]
            self._fill(waiting, source)

    def _fill(self, waiting: deque[Any], source: Iterator[Any]) -> None:
        while len(waiting) < _HELD * self.count:
            try:
                waiting.append(next(source))
            except StopIteration:
                return

    def _start(self, number: int) -> None:
        threads = max(1, self.threads // self.count) if self.threads else 0
        process, pipe = start_fresh(serve, self.opener, number, self.count, threads)
        self._processes[pipe] = process

    def _hand_out(self, waiting: deque[Any]) -> None:
        """Give every process an order, and then a second one."""
        free = [(len(held), pipe) for pipe, held in self._ready.items() if len(held) < _HELD]
        turns = [(most, pipe) for held, pipe in free for most in range(held, _HELD)]
        for _, pipe in sorted(turns, key=lambda turn: turn[0])[: len(waiting)]:
            order = waiting.popleft()
            self._ready[pipe].append(order)
            with suppress(OSError):  # it died just now, and `wait` will say so
                pipe.send(order)

    def _heard(self, pipe: Connection, waiting: deque[Any]) -> tuple[Any] | None:
        """A message: of one that is ready, of an order that is done, or of a failure."""
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
        return (value,)

    def _bury(self, pipe: Connection, waiting: deque[Any]) -> None:
        process = self._processes.pop(pipe)
        process.join(5)
        waiting.extendleft(self._ready.pop(pipe, [])[::-1])
        if not self._processes:
            raise ModelError(
                f"all {self.count} processes died, the last with exit code {process.exitcode} "
                "(-9: out of memory, or by hand); answers are kept, give the same command again"
            )


def serve(
    opener: Callable[[int, int], Worker], number: int, count: int, threads: int, pipe: Connection
) -> None:
    """Work on orders until the one who sends them is gone."""
    ignore_interrupts()
    for name in _THREADS:
        os.environ[name] = str(threads or max(1, cores() // count))
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    opened: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, orders), daemon=True).start()
    try:
        worker = opener(number, threads)
        threading.Thread(target=_open, args=(worker, orders, opened), daemon=True).start()
        pipe.send(("ready", worker.notes))
        while True:
            order, found = opened.get()
            if isinstance(found, Exception):
                raise found
            pipe.send(("done", worker.work(order, found)))
    except Exception as error:
        is_told = isinstance(error, VLForgeError)
        told = error if is_told else ModelError(f"{type(error).__name__}: {str(error)[:300]}")
        with suppress(OSError):  # nobody is there to hear it
            pipe.send(("failed", told))


def _listen(pipe: Connection, orders: queue.SimpleQueue[Any]) -> None:
    """Take orders; without anybody to give them, end at once."""
    try:
        while True:
            orders.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)


def _open(
    worker: Worker, orders: queue.SimpleQueue[Any], opened: queue.SimpleQueue[tuple[Any, Any]]
) -> None:
    """Make ready what comes next while the model writes."""
    while True:
        order = orders.get()
        try:
            opened.put((order, worker.open(order)))
        except Exception as error:  # the thread that works tells of it
            opened.put((order, error))


def count_for(processes: int | str, device: str, *, is_one: bool = False) -> int:
    """Processes that share the work: as many as asked for, else one per GPU.

    Args:
        is_one: several would be of no use: a server answers, or one model takes all GPUs.
    """
    if isinstance(processes, int):
        return processes
    if is_one or device not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def device_of(number: int, device: str) -> str:
    """Where the process of this number works: GPUs go round."""
    if device not in ("auto", "cuda"):
        return device
    import torch

    found = torch.cuda.device_count()
    return f"cuda:{number % found}" if found else device
