"""Worker processes and the order in which nodes are handed to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from vlforge.data.fresh_process import DYING_S, start_tied
from vlforge.runs.memory import resident_mb
from vlforge.runs.worker import STOP, Order, say_exit, serve

Event = tuple[str, Any]
"""(node, message) as a worker sends it."""


class Pool:
    """`jobs` spawned processes; each keeps its imports from stage to stage."""

    def __init__(self, jobs: int, threads: int):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._jobs = jobs
        self._busy: dict[Connection, str] = {}
        self._idle: list[Connection] = []
        self._workers: dict[Connection, Any] = {}
        self._lifelines: list[Connection] = []
        self.peak_mb = 0.0

    def free(self) -> bool:
        """Whether one more order can be taken."""
        return len(self._busy) < self._jobs

    def busy(self) -> bool:
        """Whether any order is running."""
        return bool(self._busy)

    def nodes(self) -> set[str]:
        """Those whose orders are running."""
        return set(self._busy.values())

    def submit(self, order: Order) -> None:
        """Hand an order to an idle worker, starting one where there is none."""
        pipe = self._idle.pop() if self._idle else self._start()
        self._busy[pipe] = order.node
        pipe.send(order)

    def events(self, timeout_s: float) -> Iterable[Event]:
        """Messages that came within `timeout_s`; a dead worker's is ("failed", ...)."""
        pids = [os.getpid(), *(w.pid for w in self._workers.values())]
        self.peak_mb = max(self.peak_mb, resident_mb(pids))
        for pipe in wait(list(self._busy), timeout_s):
            assert isinstance(pipe, Connection)
            node = self._busy[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                code = self._bury(pipe)
                yield node, ("failed", f"its process died ({say_exit(code)})", "")
                continue
            if message[0] in ("done", "failed", "stopped"):
                del self._busy[pipe]
                self._idle.append(pipe)
            yield node, message

    def ask_to_stop(self, nodes: Iterable[str]) -> None:
        """Tell the stages of these nodes to end between two steps; a message says when."""
        wanted = set(nodes)
        for pipe, node in self._busy.items():
            if node in wanted:
                with suppress(OSError):  # It ends just now; `events` says how.
                    pipe.send(STOP)

    def close(self, *, at_once: bool = False) -> None:
        """End the workers: after their stage, or `at_once` (their stages can be continued)."""
        for pipe, worker in self._workers.items():
            if at_once:
                worker.kill()  # SIGTERM would ask a training stage to end in its own time
            elif pipe in self._idle:
                pipe.send(None)
        for worker in self._workers.values():
            worker.join(5)
            if worker.is_alive():
                worker.kill()
                worker.join()
        self._workers.clear()

    def _start(self) -> Connection:
        (worker, pipe), lifeline = start_tied(serve)
        self._workers[pipe] = worker
        self._lifelines.append(lifeline)
        return pipe

    def _bury(self, pipe: Connection) -> int | None:
        del self._busy[pipe]
        worker = self._workers.pop(pipe)
        worker.join(DYING_S)
        code: int | None = worker.exitcode
        return code


def longest_first(
    ready: Iterable[str], inputs: Mapping[str, Iterable[str]], seconds: Callable[[str], float]
) -> list[str]:
    """Ready nodes, the one with the longest way to the end before it first."""
    users: dict[str, list[str]] = {}
    for node, needed in inputs.items():
        for other in needed:
            users.setdefault(other, []).append(node)
    memo: dict[str, float] = {}

    def way(node: str) -> float:
        if node not in memo:
            memo[node] = seconds(node) + max((way(u) for u in users.get(node, ())), default=0.0)
        return memo[node]

    return sorted(ready, key=lambda node: (-way(node), node))
