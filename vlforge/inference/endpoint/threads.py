"""Threads that ask: a fixed number, and they keep no process from ending."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Threads:
    """Runs jobs in at most `count` threads, first come, first served.

    `concurrent.futures` waits at the end of a process for its threads; one that waits
    for a server that hangs would hold it up.
    """

    def __init__(self, count: int):
        self.count = max(1, count)
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._begun = 0
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """The job's future; it begins when a thread is free."""
        future: Future[Any] = Future()
        self._jobs.put((future, job))
        with self._lock:
            if self._begun < self.count:
                self._begun += 1
                threading.Thread(target=self._work, daemon=True, name="asking").start()
        return future

    def _work(self) -> None:
        while True:
            future, job = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
            del future, job
