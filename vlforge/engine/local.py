"""The `process` stage on one machine: `run_process`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from vlforge.data.json_lines import decode, encode
from vlforge.engine.block import BlockRun, Track
from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import Done, Fate, Head, spilled
from vlforge.engine.funnel import Funnel
from vlforge.engine.lines import dropped_line
from vlforge.engine.outputs import Outputs, cannot_write, write_whole
from vlforge.engine.plan import PIXEL_BLOCK, Pass, Plan, make_plan
from vlforge.engine.pool import cores, in_order
from vlforge.engine.rows import Reading, root_of
from vlforge.engine.source import Position, Source
from vlforge.ops.base import Dedup, Matcher
from vlforge.ops.batch import Context
from vlforge.ops.bind import Bound, bind
from vlforge.types import (
    DataError,
    Drop,
    LogFn,
    ModelSource,
    ProgressFn,
    no_log,
    no_progress,
)

DATA, STATS, DROPPED, CHANGED = "data.jsonl", "stats.jsonl", "dropped.jsonl", "changed.jsonl"
FUNNEL = "funnel.json"
_TEXT_AT_HOME, _PIXELS_AT_HOME = 4, 1
"""Blocks that are quicker done here than by workers that have to be started."""
_FORMAT = 1
"""Raised when a journal of an older VLForge must not be continued."""


def run_process(
    config: ProcessConfig,
    out: Path,
    *,
    models: ModelSource | None = None,
    seed: int = 0,
    workers: int = 0,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> dict[str, Any]:
    """Run a recipe's operators over its dataset; give what `funnel.json` holds.

    Writes `data.jsonl` (rows that stay, images absolute), `stats.jsonl`,
    `dropped.jsonl`, `changed.jsonl` and `funnel.json` into `out`. Times apart,
    they depend on the dataset, the recipe and the seed only. A run that was
    killed goes on from its last commit when it is started again.

    Args:
        config: dataset and operators.
        out: a folder; made where it is missing.
        models: gives operators the models they name.
        seed: of everything that is drawn.
        workers: processes; 0 takes `config.np`, and that 0 all cores.

    Raises:
        RecipeError: operators or parameters that do not exist or do not fit.
        DataError: dataset unreadable or without any usable row, or no way to write.
    """
    return _Run(config, Path(out), models, seed, workers, progress, log).run()


class _Run:
    """One run: the plan, the files and the counts."""

    def __init__(
        self,
        config: ProcessConfig,
        out: Path,
        models: ModelSource | None,
        seed: int,
        workers: int,
        progress: ProgressFn,
        log: LogFn,
    ):
        self.config, self.seed, self.progress, self.log = config, seed, progress, log
        self.bounds = bind(config.process, config.text_key, config.image_key)
        self.plan = make_plan(self.bounds)
        self.source = Source(config.dataset_path)
        self.fingerprint = self.source.fingerprint()
        self.workers = workers or config.np or cores()
        self.outputs = Outputs(out, self._key())
        self.funnel = Funnel(self.bounds)
        self.matchers = {b.place: b.op.matcher() for b in self.bounds if isinstance(b.op, Dedup)}
        self.context = Context(config.image_special_token, config.eoc_special_token, seed, models)
        self.head = self._head()
        self.number = 0
        self.at = Position()

    def run(self) -> dict[str, Any]:
        """All passes, from the last commit on."""
        since = time.perf_counter()
        for note in (note for bound in self.bounds for note in bound.notes):
            self.log({"event": "note", "note": note})
        state = self.outputs.resume()
        before = self._restore(state) if state else 0.0
        self.total = self.source.row_count()
        try:
            while self.number < len(self.plan.passes):
                self._stream()
                self._end_pass()
            self._refuse_nothing()
            summary = self._finish(before + time.perf_counter() - since)
        except BaseException:
            self.outputs.close()
            raise
        return summary

    def _head(self) -> Head:
        config = self.config
        reading = Reading(
            root_of(config.dataset_path), self.fingerprint, config.text_key, config.image_key
        )
        context = replace(self.context, models=None)
        traces = config.trace_num if config.open_tracer else 0
        return Head(self.plan, reading, context, traces, config.keep_stats_in_res_ds)

    def _key(self) -> str:
        """What a journal must agree with to be continued."""
        config = asdict(self.config) | {"np": 0, "dataset_path": root_of(self.config.dataset_path)}
        told = encode([_FORMAT, config, self.fingerprint, self.seed, self.plan.block_rows])
        return hashlib.sha256(told).hexdigest()

    def _restore(self, state: Any) -> float:
        self.number = state["pass"]
        self.at = Position(*state["at"])
        self.funnel.restore(state["funnel"])
        for place, matcher in self.matchers.items():
            for line in _lines(self.outputs.path(f"keys-{place}")):
                key, uid = line.split(b" ", 1)
                matcher.add(bytes.fromhex(key.decode()), uid.decode())
        self.log({"event": "resumed", "rows": self.funnel.rows_in})
        seconds: float = state["seconds"]
        return seconds

    def _state(self) -> dict[str, Any]:
        at = self.at
        return {
            "pass": self.number,
            "at": [at.number, at.line, at.offset],
            "funnel": self.funnel.state(),
            "seconds": 0.0,
        }

    @property
    def _pass(self) -> Pass:
        return self.plan.passes[self.number]

    def _stream(self) -> None:
        """Take all blocks that are left of this pass through it."""
        ahead: list[Position] = []

        def jobs() -> Iterator[tuple[int, int, Sequence[bytes]]]:
            for first_line, lines, after in self._blocks():
                ahead.append(after)
                yield self.number, first_line, lines

        at_home = _PIXELS_AT_HOME if self.plan.block_rows == PIXEL_BLOCK else _TEXT_AT_HOME
        for done in in_order(self.head, jobs(), self.workers, at_home):
            self._take(done)
            self.at = ahead.pop(0)
            self.progress(self.funnel.rows_in, self.total, f"{self.funnel.rows_out} kept")
            if self.outputs.due():
                self.outputs.commit(self._state)

    def _blocks(self) -> Iterator[tuple[int, Sequence[bytes], Position]]:
        rows = self.plan.block_rows
        if self.number == 0:
            for block in self.source.blocks(rows, self.at):
                yield block.at.line, block.lines, block.next
            return
        order, offsets, path = self._selected(self.number - 1)
        with path.open("rb") as file:
            for number in range(self.at.number, -(-len(order) // rows)):
                lines = []
                for row in order[number * rows : (number + 1) * rows]:
                    file.seek(offsets[row])
                    lines.append(file.readline())
                yield 1, lines, Position(number + 1)

    def _take(self, done: Done) -> None:
        """A block from the workers: decide its dedups, run the tail, write."""
        if self.number == 0:
            self.funnel.rows_in += len(done.fates)
        alive, gone = self._settle(done)
        self.funnel.take(done.report, gone)
        if self._pass.tail and alive:
            tracks = [Track(fate.item) for fate in alive if fate.item is not None]
            run = BlockRun(
                tracks, self.context, self._pass.tail, self.head.trace_num, self._remembering()
            )
            run.run()
            tail = self.head.done(run, is_last=self._pass.selector is None)
            alive, _ = self._settle(tail)
            self.funnel.take(tail.report, {})
        self._write(alive)

    def _settle(self, done: Done) -> tuple[list[Fate], dict[int, int]]:
        """Rows that are still alive, and where repeats went; the dropped ones are written."""
        alive: list[Fate] = []
        gone: dict[int, int] = {}
        dropped: list[bytes] = []
        for at, fate in enumerate(done.fates):
            repeat = self._repeat(fate) if fate.keys else None
            if repeat is not None:
                place, drop = repeat
                gone[at] = place
                dropped.append(dropped_line(fate.name, drop, msgspec.Raw(fate.row or b"null")))
            elif fate.reason is not None:
                place, drop = fate.place, Drop("", fate.reason)
                dropped.append(fate.dropped or b"")
            else:
                alive.append(fate)
                place = sys.maxsize
            if place != sys.maxsize:
                self.funnel.drop(place, drop.reason)
            for changed in fate.changes:
                self.funnel.ops[changed].changed += changed < place
        self.outputs.append(DROPPED, dropped)
        self._write_traces(done, gone)
        return alive, gone

    def _repeat(self, fate: Fate) -> tuple[int, Drop] | None:
        for place, key in fate.keys:
            first = self._first(place, key, fate.name[0])
            if first is not None:
                name = next(b.name for b in self.bounds if b.place == place)
                return place, Drop(name, "repeats an earlier row", "repeats", first, None)
        return None

    def _first(self, place: int, key: bytes, uid: str) -> str | None:
        matcher = self.matchers[place]
        first = matcher.find(key)
        if first is None:
            matcher.add(key, uid)
            self.outputs.append(f"keys-{place}", [f"{key.hex()} {uid}".encode()])
        return first

    def _remembering(self) -> dict[int, Matcher]:
        return {place: _Recorded(self, place) for place in self.matchers}

    def _write_traces(self, done: Done, gone: dict[int, int]) -> None:
        lines = []
        for place, at, line in done.report.traces:
            count = self.funnel.ops[place]
            if gone.get(at, sys.maxsize) > place and count.traced < self.head.trace_num:
                count.traced += 1
                lines.append(line)
        self.outputs.append(CHANGED, lines)

    def _write(self, alive: Sequence[Fate]) -> None:
        selector = self._pass.selector
        if selector is None:
            self.outputs.append(DATA, [fate.data or b"" for fate in alive])
            self.outputs.append(STATS, [fate.stats or b"" for fate in alive])
            self.funnel.rows_out += len(alive)
            return
        items = [fate.item for fate in alive if fate.item is not None]
        op: Any = selector.op
        self.outputs.append(f"work-{self.number}", [spilled(item) for item in items])
        self.outputs.append(f"select-{self.number}", [encode(op.key(item)) for item in items])

    def _end_pass(self) -> None:
        """Drop what the pass's selector does not choose, and go on to the next pass."""
        selector = self._pass.selector
        if selector is not None:
            self._drop_unselected(selector)
        self.number += 1
        self.at = Position()
        if self.number < len(self.plan.passes):
            self.outputs.commit(self._state)

    def _drop_unselected(self, selector: Bound) -> None:
        self.outputs.append(f"work-{self.number}", [])
        self.outputs.append(f"select-{self.number}", [])
        since = time.perf_counter()
        order, _, path = self._selected(self.number)
        chosen = set(order)
        lines = []
        for at, line in enumerate(_lines(path)):
            if at in chosen:
                continue
            uid, number, row, _, _ = decode(line)
            drop = Drop(selector.name, "not selected")
            lines.append(dropped_line((uid, row.get("id"), number), drop, row))
            self.funnel.drop(selector.place, drop.reason)
        self.outputs.append(DROPPED, lines)
        self.funnel.ops[selector.place].seconds += time.perf_counter() - since

    def _selected(self, number: int) -> tuple[list[int], list[int], Path]:
        """The chosen rows of a pass in order, where each row starts, and in which file."""
        selector = self.plan.passes[number].selector
        assert selector is not None
        op: Any = selector.op
        keys = [decode(line) for line in _lines(self.outputs.path(f"select-{number}"))]
        path = self.outputs.path(f"work-{number}")
        offsets, at = [], 0
        for line in _lines(path):
            offsets.append(at)
            at += len(line) + 1
        return op.rank(keys), offsets, path

    def _refuse_nothing(self) -> None:
        """A dataset in which nothing can be used is a mistake, not an empty result."""
        funnel, path = self.funnel, self.config.dataset_path
        if funnel.rows_in == 0:
            raise DataError(f"dataset {path} holds no rows")
        if funnel.bad.total() == funnel.rows_in:
            first = decode(next(_lines(self.outputs.path(DROPPED))))
            raise DataError(
                f"dataset {path} holds no usable row: line {first['line']}: {first['reason']} "
                f"({first['value']}); name the text field by text_key"
            )

    def _finish(self, seconds: float) -> dict[str, Any]:
        counts = self.funnel.summary()
        summary = {
            "source": Path(self.config.dataset_path).name,
            "fingerprint": self.fingerprint,
            **counts,
            "seconds": round(seconds, 3),
            "peak_mb": _peak_mb(),
        }
        self.outputs.finish([DATA, STATS, DROPPED, CHANGED])
        try:
            write_whole(self.outputs.folder / FUNNEL, msgspec.json.format(encode(summary)))
        except OSError as error:
            raise cannot_write(self.outputs.folder / FUNNEL, error) from None
        return summary


class _Recorded:
    """A matcher whose keys also go to the run's files, so that a resumed run knows them."""

    def __init__(self, run: _Run, place: int):
        self._run, self._place = run, place

    def find(self, key: bytes) -> str | None:
        """The uid of the first kept row that `key` repeats."""
        return self._run.matchers[self._place].find(key)

    def add(self, key: bytes, uid: str) -> None:
        """Remember and record the key."""
        self._run._first(self._place, key, uid)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their ends; none where it is missing."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            yield line[:-1]


def _peak_mb() -> float:
    """Most memory this process held, and as much again for each worker's most."""
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    per_mb = 1024 if sys.platform == "linux" else 1024 * 1024
    return round((own + child) / per_mb, 1)


__all__ = ["CHANGED", "DATA", "DROPPED", "FUNNEL", "STATS", "Plan", "run_process"]
