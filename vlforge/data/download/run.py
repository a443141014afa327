"""A whole download: shards go to worker processes, and what is done is never done again.

A worker that dies costs its shard one more try. Workers end when the process
that started them is gone, so that killing it leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from vlforge.data.download.client import Client
from vlforge.data.download.config import RESERVED, DownloadConfig, settled
from vlforge.data.download.resize import need_opencv
from vlforge.data.download.shards import (
    NOT_FETCHED,
    NOT_RESIZED,
    clear_parts,
    clear_shards,
    done_shards,
)
from vlforge.data.download.sources import RENAMED, Shard, count_rows, files_of, shards
from vlforge.data.download.work import load_shard
from vlforge.data.folder_lock import alone
from vlforge.data.interrupts import deaf_when_spawned, ignore_interrupts
from vlforge.types import DataError, ProgressFn, RecipeError, VLForgeError, no_progress

SETTINGS = ".download_settings"
_LOCK = ".download_lock"
_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE}
"""Faults of writing that the next shard would meet too."""


@dataclass
class Downloaded:
    """What a download came to: rows of this call, of shards that were there, and of all reasons."""

    rows: int = 0
    successes: int = 0
    failed_to_download: int = 0
    failed_to_resize: int = 0
    shards: int = 0
    shards_before: int = 0
    rows_before: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, stats: dict[str, Any]) -> None:
        """Count one shard."""
        self.rows += stats["count"]
        self.successes += stats["successes"]
        self.failed_to_download += stats[NOT_FETCHED]
        self.failed_to_resize += stats[NOT_RESIZED]
        self.shards += 1
        self.reasons.update(stats["status_dict"])


def download(config: DownloadConfig, progress: ProgressFn = no_progress) -> Downloaded:
    """Fetch all pictures of a list into shards; shards that are whole are left as they are.

    Raises:
        RecipeError: an option or a library is missing.
        DataError: the list cannot be read, the folder cannot be written, or shards failed.
    """
    source, folder = settled(config)
    need_opencv(config)
    _need_pyarrow()
    files = files_of(config, source)
    begin = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror or error}") from None
    with alone(folder, _LOCK, "another download"):
        first = _prepare(config, folder, files)
        found = _Run(config, files, folder, first, progress).all()
    found.seconds = time.monotonic() - begin
    return found


def _need_pyarrow() -> None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise RecipeError("download needs pyarrow: pip install 'vlforge[tables]'")


def _prepare(config: DownloadConfig, folder: Path, files: list[Path]) -> int:
    """Make the folder ready; the first shard's number.

    Raises:
        DataError: it holds shards of other settings or of another list.
    """
    clear_parts(folder)
    if config.incremental_mode == "overwrite":
        clear_shards(folder)
    done = done_shards(folder)
    settings = config.shaping() | {"list": [[path.name, path.stat().st_size] for path in files]}
    settings = json.loads(json.dumps(settings))
    place = folder / SETTINGS
    if config.incremental_mode == "incremental" and done and place.is_file():
        _compare(folder, json.loads(place.read_text(encoding="utf-8")), settings)
    part = place.with_name(f"{SETTINGS}.part")
    part.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    part.replace(place)
    return max(done, default=-1) + 1 if config.incremental_mode == "extend" else 0


def _compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in now:
        if before.get(key) != now[key]:
            what = "another list," if key == "list" else key
            raise DataError(
                f"{folder} holds shards of {what} {_shown(before.get(key))}, now it is "
                f"{_shown(now[key])}: name another folder, or give --incremental_mode "
                "overwrite (anew) or extend (more shards)"
            )


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


@dataclass
class _Worker:
    """A process, the line to it, and the shard it is at."""

    process: Any
    line: Connection
    shard: Shard | None = None
    settled: int = 0
    good: int = 0


class _Run:
    """Reads the list, keeps the workers busy and counts."""

    def __init__(
        self,
        config: DownloadConfig,
        files: list[Path],
        folder: Path,
        first: int,
        progress: ProgressFn,
    ):
        self.config, self.files, self.folder, self.first = config, files, folder, first
        self.progress = progress
        self.found = Downloaded()
        self._workers: list[_Worker] = []
        self._again: deque[Shard] = deque()
        self._tries: Counter[int] = Counter()
        self._failed: dict[int, str] = {}
        self._total: int | None = None
        self._begin = time.monotonic()

    def all(self) -> Downloaded:
        """Everything; the sum."""
        threading.Thread(target=self._count, daemon=True).start()
        try:
            waiting = self._to_do()
            more = True
            while more or any(w.shard for w in self._workers):
                more = more and self._hand_out(waiting)
                more = more or bool(self._again)
                self._listen()
        finally:
            self._end()
        if not self._failed and not self.found.rows + self.found.rows_before:
            raise DataError(f"{self.files[0]}: no rows in it")
        if self._failed:
            shown = [f"{self.config.shard_name(n)}: {why}" for n, why in self._failed.items()]
            raise DataError(
                f"{len(shown)} of {len(shown) + self.found.shards} shards failed "
                f"({'; '.join(shown[:3])}); the same command tries them again"
            )
        return self.found

    def _count(self) -> None:
        """How many rows there are, for the display alone."""
        with contextlib.suppress(VLForgeError):
            self._total = sum(count_rows(self.config, path) for path in self.files)

    def _to_do(self) -> Iterator[Shard]:
        done = set() if self.config.incremental_mode == "extend" else done_shards(self.folder)
        number = self.first
        for path in self.files:
            for part in shards(self.config, path, number, done.__contains__):
                number += 1
                if isinstance(part, Shard):
                    self._note_names(part)
                    yield part
                    continue
                self.found.shards_before += 1
                self.found.rows_before += part

    def _note_names(self, shard: Shard) -> None:
        notes = [
            f"the list's column {name.removeprefix(RENAMED)} is kept as {name}"
            for name in shard.columns
            if name.startswith(RENAMED) and name.removeprefix(RENAMED) in RESERVED
        ]
        self.found.notes += [note for note in notes if note not in self.found.notes]

    def _hand_out(self, waiting: Iterator[Shard]) -> bool:
        """Give shards to idle workers; whether there may be more."""
        while len(self._workers) < self.config.processes or self._idle():
            shard = self._again.popleft() if self._again else next(waiting, None)
            if shard is None:
                return False
            worker = self._idle() or self._started()
            worker.shard, worker.settled, worker.good = shard, 0, 0
            with contextlib.suppress(OSError):  # A dead worker is seen by `_listen`.
                worker.line.send(shard)
        return True

    def _idle(self) -> _Worker | None:
        return next((worker for worker in self._workers if worker.shard is None), None)

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work, args=(theirs, self.config, str(self.folder)), daemon=True
        )
        with deaf_when_spawned():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _listen(self) -> None:
        """Take what workers say, at most for a moment."""
        lines: dict[Any, _Worker] = {w.line: w for w in self._workers if w.shard is not None}
        for line in wait(list(lines), timeout=0.5 if lines else 0):
            worker = lines[line]
            try:
                kind, *said = worker.line.recv()
            except (EOFError, OSError):
                self._lost(worker)
                continue
            if kind == "tick":
                worker.settled += said[0]
                worker.good += said[1]
            elif kind == "done":
                self.found.add(said[0])
                worker.shard, worker.settled, worker.good = None, 0, 0
            else:
                self._fail(worker, *said)
        self._show()

    def _lost(self, worker: _Worker) -> None:
        worker.process.join(5)
        code = worker.process.exitcode
        self._workers.remove(worker)
        worker.line.close()
        self._fail(worker, f"its process ended ({code})", False)

    def _fail(self, worker: _Worker, why: str, is_hopeless: bool) -> None:
        shard, worker.shard, worker.settled, worker.good = worker.shard, None, 0, 0
        if shard is None:
            return
        if is_hopeless:
            raise DataError(f"{self.folder}: {why}; mend that and give the same command again")
        self._tries[shard.number] += 1
        if self._tries[shard.number] <= self.config.max_shard_retry:
            self._again.append(shard)
        else:
            self._failed[shard.number] = why

    def _show(self) -> None:
        seconds = max(time.monotonic() - self._begin, 1e-3)
        here = self.found.rows + sum(worker.settled for worker in self._workers)
        good = self.found.successes + sum(worker.good for worker in self._workers)
        share = f", {100 * good / here:.0f} % fetched" if here else ""
        done = self.found.rows_before + here
        self.progress(done, self._total, f"{here / seconds:.0f}/s{share}")

    def _end(self) -> None:
        for worker in self._workers:
            if worker.shard is None:
                with contextlib.suppress(OSError):
                    worker.line.send(None)
            else:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.line.close()
        clear_parts(self.folder)


def work(line: Connection, config: DownloadConfig, folder: str) -> None:
    """What a worker process does: shards that come over the line, until there are no more."""
    ignore_interrupts()
    # Libraries that decode print on damaged pictures, thousands of lines a shard.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    client = Client(config)
    resizing = threading.Semaphore(2)

    def tick(rows: int, good: int) -> None:
        try:
            line.send(("tick", rows, good))
        except OSError:
            os._exit(1)

    while True:
        try:
            shard = line.recv()
        except (EOFError, OSError):
            os._exit(1)
        if shard is None:
            os._exit(0)
        try:
            stats = load_shard(shard, Path(folder), client, tick, resizing)
            line.send(("done", stats))
        except OSError as error:
            line.send(("failed", error.strerror or str(error), error.errno in _NO_PLACE))
        except Exception as error:
            line.send(("failed", f"{type(error).__name__}: {error}"[:300], False))


def _end_with_parent(parent: int) -> None:
    """A process whose parent was killed writes nothing more."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
