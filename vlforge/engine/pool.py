"""Running blocks in forked workers, results in order; at home where that is quicker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

from vlforge.types import VLForgeError

Job = TypeVar("Job")
Result = TypeVar("Result")

RARELY = 200_000
"""New objects between two searches for garbage.

Rows go when they are let go, in no circles. A search takes time, and in a worker
it writes into all the pages that it shares with its parent.
"""


class Doing(Protocol):
    """Whoever does numbered jobs; the results may come in any order."""

    def has_room(self) -> bool:
        """Whether another job can be given."""
        ...

    def no_more(self) -> None:
        """All jobs have been given."""
        ...

    def give(self, number: int, job: Any) -> None:
        """A job; `number` comes back with its result."""
        ...

    def results(self) -> Iterator[tuple[int, Any]]:
        """Wait for some results."""
        ...


def in_order(
    task: Callable[[Job], Result], jobs: Iterable[Job], workers: int, at_home: int
) -> Iterator[Result]:
    """`map(task, jobs)` over `workers` processes.

    The workers inherit the modules that this process has loaded. A task may have
    `warm(job)`, which loads them by a small part of the job, and says whether it did;
    otherwise the first job is done here.

    Up to `at_home` jobs, one worker, or a process that has torch loaded (its
    threads do not survive a fork): everything runs here.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, at_home + 1))
    everything = chain(first, jobs)
    if workers <= 1 or len(first) <= at_home or "torch" in sys.modules or not hasattr(os, "fork"):
        yield from map(task, everything)
        return
    warm: Callable[[Job], bool] = getattr(task, "warm", lambda job: False)
    # Workers are forked before a result is handed on, because whoever takes it may load torch.
    done = [] if warm(first[0]) else [task(next(everything))]
    yield from _forked(task, everything, workers, done)


def _forked(
    task: Callable[[Job], Result], jobs: Iterator[Job], workers: int, done: list[Result]
) -> Iterator[Result]:
    """`done`, then the results of `jobs`, of which few are taken before they are needed."""
    from vlforge.engine.crew import Crew, WorkerDied

    crew = Crew(task, workers)
    try:
        yield from by_number(crew, jobs, done, 2 * workers)
    except WorkerDied:
        raise VLForgeError(
            "a worker process was killed, most likely for want of memory: "
            "lower np and run again, it continues where it stopped"
        ) from None
    finally:
        crew.close()


def by_number(crew: Doing, jobs: Iterator[Job], done: list[Any], window: int) -> Iterator[Any]:
    """The results in the order of their jobs; at most `window` jobs are ahead of the next one."""
    ready = dict(enumerate(done))
    numbered = enumerate(jobs, len(done))
    given, taken = len(done), 0
    while True:
        while given - taken <= window and crew.has_room():
            job = next(numbered, None)
            if job is None:
                crew.no_more()
                break
            crew.give(*job)
            given += 1
        if taken in ready:
            yield ready.pop(taken)
            taken += 1
        elif taken < given:
            ready.update(crew.results())
        else:
            return
