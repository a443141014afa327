"""Forked workers: a pipe to each with its jobs, a pipe back with the results.

Less than `concurrent.futures` does, and sooner started and ended: one thread,
which looks after the pipes whenever results are wanted.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from vlforge.data.interrupts import deaf_from_birth, ignore_interrupts
from vlforge.engine.pool import RARELY

_AHEAD = 2
"""Jobs that a worker has at once: one in work, one in its pipe."""
_PIPE_BYTES = 1 << 20
_LENGTH_BYTES = 8


class WorkerDied(Exception):
    """A worker ended before it gave its result."""


class InWorker(Exception):
    """Where in a worker an error was raised; the cause of that error in the parent."""


class Crew:
    """Some workers that do `task`; results come as they are ready, in any order."""

    def __init__(self, task: Callable[[Any], Any], size: int):
        self._workers: list[_Worker] = []
        self._is_ending = False
        gc.freeze()
        try:
            for _ in range(size):
                self._workers.append(_Worker(task, self._workers))
        except BaseException:
            self.close()
            raise
        finally:
            gc.unfreeze()

    def has_room(self) -> bool:
        """Whether one of the workers can be given another job."""
        return not self._is_ending and any(len(w.numbers) < _AHEAD for w in self._workers)

    def no_more(self) -> None:
        """Let each worker end when it has done its jobs; ending takes time too."""
        self._is_ending = True
        for worker in self._workers:
            worker.close_when_sent()

    def give(self, number: int, job: Any) -> None:
        """A job for the worker that has fewest; `number` comes back with its result."""
        worker = min(self._workers, key=lambda worker: len(worker.numbers))
        worker.numbers.append(number)
        worker.send(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))

    def results(self) -> Iterator[tuple[int, Any]]:
        """Wait until the pipes move, and give the results that are whole then.

        Raises:
            WorkerDied: one ended.
            Exception: what the task raised in a worker.
        """
        poll = select.poll()
        by_pipe = {}
        for worker in [worker for worker in self._workers if worker.numbers]:
            poll.register(worker.source, select.POLLIN)
            by_pipe[worker.source] = worker
            if worker.unsent:
                poll.register(worker.target, select.POLLOUT)
                by_pipe[worker.target] = worker
        for pipe, _ in poll.poll():
            worker = by_pipe[pipe]
            if pipe == worker.target:
                worker.flush()
                continue
            for result, error, place in worker.receive():
                if error is not None:
                    raise error from InWorker(place)
                yield worker.numbers.popleft(), result

    def close(self) -> None:
        """Let the workers end what they are at, and wait for them."""
        for worker in self._workers:
            worker.close_pipes()
        for worker in self._workers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(worker.pid, 0)
        self._workers = []


class _Worker:
    """The parent's side of one worker.

    `numbers` are those of its jobs, in the order of their results; `unsent` is
    what its pipe did not take yet.
    """

    def __init__(self, task: Callable[[Any], Any], earlier: Sequence[_Worker]):
        jobs, self.target = _pipe()
        self.source, results = _pipe()
        self.numbers: deque[int] = deque()
        self.unsent = memoryview(b"")
        self._is_last = False
        self._received = bytearray()
        _flush_streams()
        parent = os.getpid()
        with deaf_from_birth():
            self.pid = os.fork()
            if self.pid == 0:
                _work(task, jobs, results, parent, (*earlier, self))
        os.close(jobs)
        os.close(results)
        os.set_blocking(self.target, False)

    def send(self, data: bytes) -> None:
        """Put a message on its way, behind what waits already."""
        self.unsent = memoryview(bytes(self.unsent) + _framed(data))
        self.flush()

    def flush(self) -> None:
        """As much into the pipe as it takes now."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.target, self.unsent) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            raise WorkerDied from None
        if self._is_last:
            self._close_target()

    def close_when_sent(self) -> None:
        """Nothing more is sent than what waits."""
        self._is_last = True
        self.flush()

    def _close_target(self) -> None:
        if self.target >= 0:
            os.close(self.target)
        self.target = -1

    def receive(self) -> Iterator[tuple[Any, Exception | None, str]]:
        """The messages that are there in whole; asked for where the pipe has something."""
        data = os.read(self.source, _PIPE_BYTES)
        if not data:
            raise WorkerDied
        self._received += data
        while len(self._received) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES], "big")
            if len(self._received) < end:
                return
            with memoryview(self._received) as view:
                message = pickle.loads(view[_LENGTH_BYTES:end])
            del self._received[:end]
            yield message

    def close_pipes(self) -> None:
        """Nothing more is sent or read."""
        self._close_target()
        os.close(self.source)


def _pipe() -> tuple[int, int]:
    source, target = os.pipe()
    if sys.platform == "linux":
        import fcntl

        # Refused where many pipes are open: a small one costs some waiting, nothing else.
        with contextlib.suppress(OSError):
            fcntl.fcntl(target, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return source, target


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()


def _work(
    task: Callable[[Any], Any], jobs: int, results: int, parent: int, theirs: Sequence[_Worker]
) -> NoReturn:
    """A worker's whole life: it ends with its pipes, and at once where its parent is killed."""
    code = 1
    try:
        # Or no worker would see the end of a pipe that another one holds too.
        for worker in theirs:
            worker.close_pipes()
        gc.set_threshold(RARELY)
        ignore_interrupts()
        _end_with(parent)
        with open(jobs, "rb") as source, open(results, "wb") as target:
            while head := source.read(_LENGTH_BYTES):
                job = pickle.loads(source.read(int.from_bytes(head, "big")))
                target.write(_framed(_done(task, job)))
                target.flush()
        code = 0
    except BrokenPipeError:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        _flush_streams()
        os._exit(code)


def _done(task: Callable[[Any], Any], job: Any) -> bytes:
    """The message about a job: the result, or the error and where it was raised."""
    try:
        return pickle.dumps((task(job), None, ""), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        place = traceback.format_exc()
        try:
            data = pickle.dumps((None, error, place), pickle.HIGHEST_PROTOCOL)
            pickle.loads(data)
        except Exception:
            told = RuntimeError(f"{type(error).__name__}: {error}")
            data = pickle.dumps((None, told, place), pickle.HIGHEST_PROTOCOL)
        return data


def _end_with(parent: int) -> None:
    """End when the parent is killed, in the middle of a job too."""
    if sys.platform == "linux":
        import ctypes

        ends_with_parent = 1
        ctypes.CDLL(None).prctl(ends_with_parent, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
