"""Running blocks in forked workers, results in order; at home where that is quicker."""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

from vlforge.types import VLForgeError

Job = TypeVar("Job")
Result = TypeVar("Result")

RARELY = 200_000
"""New objects between two searches for garbage.

Rows go when they are let go, in no circles. A search takes time, and in a worker
it writes into all the pages that it shares with its parent.
"""

_task: Callable[[Any], Any] | None = None
"""What this process's workers do; they inherit it when they are forked."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    task: Callable[[Job], Result], jobs: Iterable[Job], workers: int, at_home: int
) -> Iterator[Result]:
    """`map(task, jobs)` over `workers` processes.

    Up to `at_home` jobs, one worker, or a process that has torch loaded (its
    threads do not survive a fork): everything runs here.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, at_home + 1))
    everything = chain(first, jobs)
    if workers <= 1 or len(first) <= at_home or "torch" in sys.modules or not hasattr(os, "fork"):
        yield from map(task, everything)
        return
    # One job is done here, so that the workers inherit the modules that it loaded. They are
    # forked before its result is handed on, because whoever takes it may load torch.
    done = task(next(everything))
    yield from _forked(task, everything, workers, done)


def _forked(
    task: Callable[[Job], Result], jobs: Iterator[Job], workers: int, done: Result
) -> Iterator[Result]:
    """`done`, then the results of `jobs`."""
    global _task
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    _task = task
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(os.getpid(),))
    waiting: deque[Future[Result]] = deque()
    try:
        gc.freeze()
        try:
            waiting.extend(pool.submit(_run, job) for job in islice(jobs, workers))
        finally:
            gc.unfreeze()
        yield done
        for job in jobs:
            waiting.append(pool.submit(_run, job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise VLForgeError(
            "a worker process was killed, most likely for want of memory: "
            "lower np and run again, it continues where it stopped"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _task = None


def _run(job: Any) -> Any:
    assert _task is not None
    return _task(job)


def _start(parent: int) -> None:
    """In a worker: leave Ctrl-C to the parent, and end when the parent is killed."""
    import signal

    gc.set_threshold(RARELY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        ends_with_parent = 1
        ctypes.CDLL(None).prctl(ends_with_parent, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
