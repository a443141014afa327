"""A process that runs stages one after another, told over a pipe."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vlforge.data.fresh_process import die_with_parent
from vlforge.data.interrupts import ignore_interrupts
from vlforge.data.roots import set_moved
from vlforge.recipe.kinds import find_kind
from vlforge.recipe.typed import build
from vlforge.runs.job import Job
from vlforge.runs.launch import Launch, forget_launch
from vlforge.runs.memory import peak_mb, reset_peak
from vlforge.runs.store import Store, done_since
from vlforge.runs.tries import say_unused
from vlforge.types import StageStopped, VLForgeError, no_log, no_progress

_SHOW_EVERY_S = 0.2
_FULL = re.compile(r"\(os error (28|122)\)|PytorchStreamWriter failed writing")
"""How safetensors and torch say that a disk is full."""
STOP = "stop"
"""Sent while an order runs: end it early where the stage can be gone on with."""


@dataclass(frozen=True)
class Order:
    """One node to run. `settings` hold real paths in place of `$stage` references.

    What was finished before `fresh_since` is made again, and unfinished work given up.
    Kinds that several processes run together get `processes`, which `launch` started where
    it is given.
    """

    node: str
    kind: str
    key: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    seed: int
    store: Path
    run_dir: Path
    device: str
    threads: int
    moved: Mapping[str, str] = field(default_factory=dict)
    fresh_since: float = 0.0
    processes: int = 1
    launch: Launch | None = None


def serve(lifeline: Connection, pipe: Connection) -> None:
    """Run orders from `pipe` until None comes; die with the parent (`lifeline` closes)."""
    ignore_interrupts()
    forget_launch(os.environ)
    threading.Thread(target=die_with_parent, args=(lifeline,), daemon=True).start()
    while (order := pipe.recv()) is not None:
        if order == STOP:
            continue  # It came when the stage had just ended.
        try:
            pipe.send(("done", *run_order(order, pipe)))
        except Exception as error:
            pipe.send(report_of(error, order))


def report_of(error: BaseException, order: Order) -> tuple[Any, ...]:
    """What a stage's end by an error is told as; where it happened, unless it is the user's."""
    if isinstance(error, StageStopped):
        return "stopped", str(error)
    if isinstance(error, VLForgeError):
        return "failed", str(error), getattr(error, "trace", "")
    if _FULL.search(str(error)):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(order.store))
    if isinstance(error, OSError):
        return "failed", _say_os_error(error, order), traceback.format_exc()
    line = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "failed", line, traceback.format_exc()


def say_exit(code: int | None) -> str:
    """How a process ended."""
    if code == -signal.SIGKILL:
        return "killed: out of memory, or by hand"
    return f"exit code {code}"


def run_order(order: Order, pipe: Connection | None = None) -> tuple[float, float, bool]:
    """Run one node to its place in the store: (seconds, peak MB, whether it was there already)."""
    store = Store(order.store)
    with store.lock(order.key):
        if done_since(store.folder(order.key), order.fresh_since):
            return 0.0, 0.0, True
        out = store.partial(order.key)
        if order.fresh_since:
            shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        set_moved(order.moved)
        reset_peak()
        start = time.perf_counter()
        say_unused(store, order, _job(order, out, pipe).log)
        if order.processes > 1 and getattr(find_kind(order.kind).module(), "TOGETHER", False):
            from vlforge.runs.team import run_together

            peak = run_together(order, out, pipe)
        else:
            run_stage(order, out, pipe)
            peak = round(peak_mb(), 1)
        seconds = round(time.perf_counter() - start, 2)
        record = {
            "node": order.node,
            "kind": order.kind,
            "inputs": dict(order.inputs),
            "seconds": seconds,
            "peak_mb": peak,
            "device": order.device,
        }
        store.finish(order.key, record)
    return seconds, peak, False


def run_stage(order: Order, out: Path, pipe: Connection | None, *, is_quiet: bool = False) -> None:
    """Run one node into a folder, in this process."""
    kind = find_kind(order.kind)
    config = build(kind.config_class(), order.settings, lambda *keys: order.node)
    job = _job(order, out, pipe)
    if is_quiet:
        job = replace(job, progress=no_progress, log=no_log)
    kind.module().run(config, job)


def _job(order: Order, out: Path, pipe: Connection | None) -> Job:
    last = [0.0]

    def progress(done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        if pipe is not None and (now - last[0] > _SHOW_EVERY_S or done == total):
            last[0] = now
            pipe.send(("progress", done, total, note))

    def log(event: Mapping[str, Any]) -> None:
        if pipe is not None:
            pipe.send(("log", dict(event)))

    return Job(
        node=order.node,
        out=out,
        run_dir=order.run_dir,
        seed=order.seed,
        device=order.device,
        threads=order.threads,
        processes=order.processes,
        progress=progress,
        log=log,
        stop=_asked(pipe),
    )


def _asked(pipe: Connection | None) -> Callable[[], bool]:
    """Whether the stage that runs was asked to end early."""
    asked: list[Any] = []

    def stop() -> bool:
        if pipe is not None and not asked and pipe.poll():
            asked.append(pipe.recv())
        return bool(asked)

    return stop


def _say_os_error(error: OSError, order: Order) -> str:
    where = error.filename or order.store
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left for {where}: free some and give the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {where}: choose another folder with --out or mend its rights"
    return f"{where}: {error.strerror or error}"
