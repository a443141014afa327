"""Processes that hold models: each is started once, opens its own copies, and takes blocks.

They are spawned, not forked, so that each has a GPU of its own and the process that starts
them needs no torch. A thread takes jobs from the pipe as they come; the pictures of the next
block are decoded while the model is at the one before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from vlforge.data.fresh_process import DYING_S, Fresh, die_with_parent, start_tied
from vlforge.data.interrupts import ignore_interrupts
from vlforge.data.machine import visible_gpus
from vlforge.data.roots import moved, set_moved
from vlforge.engine.config import ProcessConfig
from vlforge.engine.crew import InWorker
from vlforge.engine.fates import Head
from vlforge.engine.legs import AHEAD, LegDone, LegJob, LegRunner, Ticket, Told
from vlforge.engine.plan import Plan, opens_models
from vlforge.types import EndpointSpec, ModelSource, VLForgeError

_GRACE_S = 2.0
"""How long a process without anything to do may take to end."""
SPENT = "spent"
"""Asks a worker what its servers took."""
Source = TypeVar("Source")


def wanted_workers(config: ProcessConfig, plan: Plan, models: Any) -> int:
    """Processes that shall hold models; 0: the one that runs is enough.

    As many as the recipe says, else one per GPU where there are several. A model that is
    spread over the GPUs, one whose device was chosen, and endpoints need no more than one.
    """
    if models is None or not plan.model_operators:
        return 0
    if config.model_workers:
        return config.model_workers
    takes_all = getattr(models, "device", "auto") in ("auto", "cuda")
    if not opens_models(config, plan) or not takes_all or config.models.device_map != "none":
        return 0
    gpus = len(visible_gpus())
    return gpus if gpus > 1 else 0


def placed(models: Source, workers: int, **changes: Any) -> Source:
    """The models' settings for one of several workers: its share of threads and of endpoints.

    Rates of endpoints and requests at once are divided, so that the workers together keep to
    what the recipe allows. Budgets are not: the file of replies tells all of them what is spent.
    """
    if not dataclasses.is_dataclass(models) or isinstance(models, type):
        return models
    names = {field.name for field in dataclasses.fields(models)}
    told: Any = models
    if "threads" in names:
        changes["threads"] = max(1, told.threads // workers) if told.threads else 0
    if "endpoints" in names:
        shares = {name: _share(spec, workers) for name, spec in told.endpoints.items()}
        changes["endpoints"] = shares
    known = {name: value for name, value in changes.items() if name in names}
    return replace(told, **known)


def _share(spec: EndpointSpec, workers: int) -> EndpointSpec:
    return replace(
        spec,
        concurrency=max(1, spec.concurrency // workers),
        requests_per_minute=spec.requests_per_minute / workers,
        tokens_per_minute=spec.tokens_per_minute / workers,
    )


@dataclass
class _Worker:
    """One process and what it has under way, in the order in which it was given."""

    fresh: Fresh
    lifeline: Connection
    tickets: list[Ticket] = field(default_factory=list)


class ModelCrew:
    """`size` processes; `Hands` for the legs of a run.

    Raises, where results are collected, what a worker raised, and one line where it died.
    """

    def __init__(self, models: ModelSource, config: ProcessConfig, seed: int, size: int):
        self.room = AHEAD * size
        self._told = Told(config, seed, "", {})
        device = str(getattr(models, "device", "auto"))
        gpus = visible_gpus() if device != "cpu" else []
        # Each worker sees one GPU, whichever of them was named.
        changes = {"device": "cuda"} if device.startswith("cuda:") else {}
        self._workers: list[_Worker] = []
        settings = pickle.dumps((placed(models, size, **changes), dict(config.endpoints), moved()))
        try:
            for number in range(size):
                gpu = gpus[number % len(gpus)] if gpus else None
                fresh, lifeline = start_tied(serve, settings, gpu)
                self._workers.append(_Worker(fresh, lifeline))
        except BaseException:
            self.close()
            raise

    def begin(self, head: Head) -> None:
        """The pass that comes next; nothing is under way."""
        told = replace(self._told, produced=head.context.produced, learned=head.learned)
        for worker in self._workers:
            self._send(worker, told)

    def give(self, ticket: Ticket, job: LegJob) -> None:
        """A job for the process that has fewest."""
        worker = min(self._workers, key=lambda one: len(one.tickets))
        worker.tickets.append(ticket)
        self._send(worker, job)

    def collect(self, leg: int) -> Iterator[tuple[Ticket, LegDone]]:
        """Wait until a process has something."""
        busy = {one.fresh.pipe: one for one in self._workers if one.tickets}
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            done = self._received(worker)
            yield worker.tickets.pop(0), done

    def spent(self) -> list[dict[str, Any]]:
        """What asking servers took, per process."""
        for worker in self._workers:
            self._send(worker, SPENT)
        return [self._received(worker) for worker in self._workers]

    def close(self) -> None:
        """End all: those that wait for work at once, others without asking."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                if not worker.tickets:
                    worker.fresh.pipe.send_bytes(pickle.dumps(None))
        for worker in self._workers:
            worker.fresh.process.join(0 if worker.tickets else _GRACE_S)
            if worker.fresh.process.is_alive():
                worker.fresh.process.kill()
                worker.fresh.process.join()
            worker.fresh.pipe.close()
            worker.lifeline.close()
        self._workers = []

    def _send(self, worker: _Worker, message: Any) -> None:
        try:
            worker.fresh.pipe.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        except (BrokenPipeError, ConnectionError):
            raise self._died(worker) from None

    def _received(self, worker: _Worker) -> Any:
        try:
            done, error, place = pickle.loads(worker.fresh.pipe.recv_bytes())
        except (EOFError, ConnectionError):
            raise self._died(worker) from None
        if error is not None:
            raise error from InWorker(place)
        return done

    def _died(self, worker: _Worker) -> VLForgeError:
        worker.fresh.process.join(DYING_S)
        code = worker.fresh.process.exitcode
        if code == -signal.SIGKILL:
            return VLForgeError(
                "a process with models was killed, most likely for want of memory: lower "
                "model_workers and run again, it continues where it stopped"
            )
        return VLForgeError(
            f"a process with models ended by itself (exit code {code}); run again, it continues "
            "where it stopped"
        )


def serve(settings: bytes, gpu: str | None, lifeline: Connection, pipe: Connection) -> None:
    """A worker's life: a pass, its jobs, another pass, until None comes or the parent is gone."""
    ignore_interrupts()
    threading.Thread(target=die_with_parent, args=(lifeline,), daemon=True).start()
    if gpu is not None:
        # Before anything loads torch: to it, this GPU is the only one.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    models, endpoints, maps = pickle.loads(settings)
    set_moved(maps)
    runner = LegRunner(models, endpoints)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, runner, inbox), daemon=True).start()
    while (work := inbox.get()) is not None:
        with contextlib.suppress(BrokenPipeError):
            pipe.send_bytes(_done(work))


def _receive(pipe: Connection, runner: LegRunner, inbox: queue.SimpleQueue[Any]) -> None:
    """Take what comes at once, so that nobody waits for room in the pipe."""
    while True:
        try:
            message = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            message = None
        if message is None:
            inbox.put(None)
            return
        if message == SPENT:
            inbox.put(runner.spent)
            continue
        if isinstance(message, Told):
            try:
                runner.begin(message.head())
            except Exception as error:
                inbox.put(_Failed(error))
            continue
        try:
            prepared = runner.prepare(message)
        except Exception as error:
            inbox.put(_Failed(error))
        else:
            inbox.put(lambda prepared=prepared: runner.run(prepared))


class _Failed:
    """Work that raises what went wrong while it was prepared."""

    def __init__(self, error: Exception):
        self.error = error

    def __call__(self) -> Any:
        raise self.error


def _done(work: Any) -> bytes:
    """The message about a job: the result, or the error and where it was raised."""
    try:
        return pickle.dumps((work(), None, ""), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        place = traceback.format_exc()
        try:
            data = pickle.dumps((None, error, place), pickle.HIGHEST_PROTOCOL)
            pickle.loads(data)
        except Exception:
            told = _plain_error(error)
            data = pickle.dumps((None, told, place), pickle.HIGHEST_PROTOCOL)
        return data


def _plain_error(error: Exception) -> Exception:
    """One that can travel; a line for the user stays one."""
    if isinstance(error, VLForgeError):
        return VLForgeError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
