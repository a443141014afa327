"""Helper processes: each holds one object and answers calls of it, one after the other.

They are started as new programs, not forked: a process with threads and a GPU is no
good parent of copies. One that dies is replaced and its question asked again. None
outlives the process that asks: a closed pipe ends them, however the parent ended.
Large answers come back in memory that both share; it has no name, so nothing is left.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, TypeVar

from vlforge.data.interrupts import deaf_from_birth, ignore_interrupts
from vlforge.types import DataError

MOST_DEATHS = 3
"""Processes that one question may end before it counts as unanswerable."""
_LENGTH = 8
_START = "from vlforge.training.workers import serve; serve()"

Answer = TypeVar("Answer")
Make = Callable[..., Callable[[Any], Any]]
"""Gives what answers: its first argument is the shared memory, or None."""


class Died(Exception):
    """A helper process ended before it answered."""


class Worker:
    """One helper process."""

    def __init__(self, make: Make, args: tuple[Any, ...], shared: int = 0):
        """
        Args:
            make: a class or function of a module; called as `make(memory, *args)` there.
            shared: bytes of memory that both sides see.
        """
        self.memory: mmap.mmap | None = None
        file = -1
        if shared:
            file = os.memfd_create("vlforge")
            os.ftruncate(file, shared)
            self.memory = mmap.mmap(file, shared)
        given = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        with deaf_from_birth():
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | given | {"TOKENIZERS_PARALLELISM": "false"},
                pass_fds=(file,) if shared else (),
            )
        if shared:
            os.close(file)
        self._begin = (file, shared, make, args)
        self._is_begun = False

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, question: Any) -> Any:
        """What the object answers; an error that it raises is raised here.

        Raises:
            Died: the process ended meanwhile.
        """
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        try:
            if not self._is_begun:
                _send(pipe_in, self._begin)
                self._is_begun = True
            _send(pipe_in, question)
            is_answer, answer = _receive(pipe_out)
        except (OSError, EOFError, ValueError):
            raise Died from None
        if not is_answer:
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


class Workers:
    """Helper processes for as many threads as ask at once."""

    def __init__(self, start: Callable[[], Worker]):
        self._start = start
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._all: set[Worker] = set()
        self._lock = threading.Lock()

    @property
    def pids(self) -> list[int]:
        """The processes that live."""
        with self._lock:
            return [worker.pid for worker in self._all]

    def ask(self, question: Any, name: str, take: Callable[[Worker, Any], Answer]) -> Answer:
        """What a process answers, taken over by `take` before the next question reaches it.

        Raises:
            DataError: the question ended three processes; says its `name`.
        """
        for _ in range(MOST_DEATHS):
            worker = self._get()
            try:
                answer = take(worker, worker.ask(question))
            except Died:
                self._drop(worker)
                continue
            except BaseException:
                self._idle.put(worker)
                raise
            self._idle.put(worker)
            return answer
        raise DataError(f"{name}: {MOST_DEATHS} processes ended while they read it")

    def _get(self) -> Worker:
        with contextlib.suppress(queue.Empty):
            while not (worker := self._idle.get_nowait()).is_alive:
                self._drop(worker)  # It ended while nobody asked it: no question's fault.
            return worker
        worker = self._start()
        with self._lock:
            self._all.add(worker)
        return worker

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            self._all.discard(worker)
        worker.close()

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            everybody, self._all = self._all, set()
        for worker in everybody:
            worker.close()


def serve() -> None:
    """What a helper process does: answer until the one that asks is gone."""
    ignore_interrupts()
    pipe_in, pipe_out = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        file, shared, make, args = _receive(pipe_in)
    except EOFError:
        return
    answer = make(mmap.mmap(file, shared) if shared else None, *args)
    questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe_in, questions), daemon=True).start()
    while True:
        question = questions.get()
        try:
            told = (True, answer(question))
        except Exception as error:
            told = (False, _plain(error))
        try:
            _send(pipe_out, told)
        except OSError:
            os._exit(0)


def _listen(pipe: IO[bytes], questions: queue.SimpleQueue[Any]) -> None:
    """Pass questions on; the process ends with the pipe, whatever it is at."""
    while True:
        try:
            questions.put(_receive(pipe))
        except EOFError:
            os._exit(0)


def _plain(error: Exception) -> Exception:
    """The error as another process can raise it."""
    if isinstance(error, DataError):
        return DataError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _send(pipe: IO[bytes], what: Any) -> None:
    data = pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(len(data).to_bytes(_LENGTH, "little"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    head = pipe.read(_LENGTH)
    if len(head) < _LENGTH:
        raise EOFError
    size = int.from_bytes(head, "little")
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)
