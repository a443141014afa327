"""The `process` stage on one machine: `run_process`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import msgspec

from vlforge.data.json_lines import decode, encode
from vlforge.engine.barriers import DROPPED, Barrier, lines_of
from vlforge.engine.block import BlockRun, Track, repeat_of
from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import Done, Fates, Head, Repeat, Sums, context_of, head_of
from vlforge.engine.funnel import Funnel
from vlforge.engine.outputs import Outputs, cannot_write, write_whole
from vlforge.engine.plan import PIXEL_BLOCK, Pass, Plan, make_plan, operators_of
from vlforge.engine.pool import cores, in_order
from vlforge.engine.source import Block, Position, open_source
from vlforge.ops.base import CorpusMapper, Dedup, Matcher
from vlforge.ops.bind import Bound
from vlforge.types import (
    DataError,
    LogFn,
    ModelSource,
    ProgressFn,
    no_log,
    no_progress,
)

DATA, STATS, CHANGED = "data.jsonl", "stats.jsonl", "changed.jsonl"
FUNNEL = "funnel.json"
_TEXT_AT_HOME, _PIXELS_AT_HOME = 4, 1
"""Blocks that are quicker done here than by workers that have to be started."""
_FORMAT = 2
"""Raised when a journal of an older VLForge must not be continued."""


Job = tuple[int, Block | Sequence[bytes]]
Spread = Callable[[Head, Iterator[Job], int, int], Iterator[Done]]
"""Takes the head of a pass, its blocks, the workers wanted and how many blocks may stay here;
gives the blocks' results in order."""


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
    spread: Spread = in_order
    if config.executor_type != "default":
        from vlforge.engine.cluster import spread_over_ray

        spread = spread_over_ray(config, seed, Path(out), workers or config.np, log)
    return ProcessRun(config, Path(out), models, seed, workers, progress, log, spread).run()


class ProcessRun:
    """One run: the plan, the files and the counts. `spread` takes the blocks to where they run."""

    def __init__(
        self,
        config: ProcessConfig,
        out: Path,
        models: ModelSource | None,
        seed: int,
        workers: int,
        progress: ProgressFn,
        log: LogFn,
        spread: Spread = in_order,
    ):
        self.spread = spread
        self.config, self.seed, self.progress, self.log = config, seed, progress, log
        self.bounds = operators_of(config)
        self.plan = make_plan(self.bounds)
        self.source = open_source(config)
        self.fingerprint = self.source.fingerprint()
        self.workers = workers or config.np or cores()
        self.outputs = Outputs(out, self._key())
        self.funnel = Funnel(self.bounds)
        self.matchers = {b.place: b.op.matcher() for b in self.bounds if isinstance(b.op, Dedup)}
        produced = str(self.outputs.folder.absolute() / "produced")
        self.context = replace(context_of(config, seed, produced), models=models)
        self.number = 0
        self.at = Position()

    def run(self) -> dict[str, Any]:
        """All passes, from the last commit on."""
        since = time.perf_counter()
        for note in (note for bound in self.bounds for note in bound.notes):
            self.log({"event": "note", "note": note})
        state = self.outputs.resume()
        before = self._restore(state) if state else 0.0
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
        """What workers need to know for the pass that is on."""
        learned = {
            at.bound.place: at.learned()
            for at in map(self._barrier, range(self.number))
            if isinstance(at.bound.op, CorpusMapper)
        }
        return head_of(self.config, self.bounds, self.seed, self.context.produced, learned)

    def _key(self) -> str:
        """What a journal must agree with to be continued."""
        config = asdict(self.config) | {"np": 0}
        told = encode([_FORMAT, config, self.fingerprint, self.seed, self.plan.block_rows])
        return hashlib.sha256(told).hexdigest()

    def _restore(self, state: Any) -> float:
        self.number = state["pass"]
        self.at = Position(*state["at"])
        self.funnel.restore(state["funnel"])
        for place, matcher in self.matchers.items():
            for line in lines_of(self.outputs.path(f"keys-{place}")):
                key, uid = line.split(b" ", 1)
                matcher.add(bytes.fromhex(key.decode()), uid.decode())
        self.log({"event": "resumed", "rows": self.funnel.rows_in})
        seconds: float = state["seconds"]
        return seconds

    def _state(self) -> dict[str, Any]:
        return {
            "pass": self.number,
            "at": list(astuple(self.at)),
            "funnel": self.funnel.state(),
            "seconds": 0.0,
        }

    @property
    def _pass(self) -> Pass:
        return self.plan.passes[self.number]

    def _barrier(self, number: int) -> Barrier:
        bound = self.plan.passes[number].barrier
        assert bound is not None
        return Barrier(bound, number, self.outputs)

    def _stream(self) -> None:
        """Take all blocks that are left of this pass through it."""
        ahead: list[Position] = []
        self.head = self._head()
        rows = self.plan.block_rows
        total = self.source.row_count() if self.number == 0 else self._count_before()
        seen = self.funnel.rows_in if self.number == 0 else self.at.number * rows

        def jobs() -> Iterator[Job]:
            if self.number == 0:
                for block in self.source.blocks(rows, self.at):
                    ahead.append(block.next)
                    yield 0, block
                return
            for lines, after in self._barrier(self.number - 1).blocks(rows, self.at):
                ahead.append(after)
                yield self.number, lines

        at_home = _PIXELS_AT_HOME if rows == PIXEL_BLOCK else _TEXT_AT_HOME
        for done in self.spread(self.head, jobs(), self.workers, at_home):
            self._take(done)
            seen += done.read
            self.at = ahead.pop(0)
            self.progress(seen, total, self._told())
            if self.outputs.due():
                self.outputs.commit(self._state)

    def _count_before(self) -> int:
        return self._barrier(self.number - 1).row_count()

    def _told(self) -> str:
        """Beside the progress bar: the pass where there are several, kept and dropped rows."""
        gone = self.funnel.dropped
        several = len(self.plan.passes) > 1
        number = f"pass {self.number + 1} of {len(self.plan.passes)}, " if several else ""
        if self._pass.barrier is not None:
            return f"{number}{gone} dropped"
        return f"{number}{self.funnel.rows_out} kept, {gone} dropped"

    def _take(self, done: Done) -> None:
        """A block from the workers: decide its dedups, run the tail, write."""
        if self.number == 0:
            self.funnel.rows_in += done.read
        self._refuse_bad(done)
        if done.fates is None:
            self.funnel.take(done.report, {})
            self._add(done.sums or Sums())
            return
        repeats = self._repeats(done.fates)
        self.funnel.take(done.report, {at: repeat.place for at, repeat in repeats.items()})
        sums, items = done.fates.settled(repeats)
        self._add(sums)
        if items:
            self._run_tail([Track(item) for item in items])

    def _run_tail(self, tracks: list[Track]) -> None:
        """Operators that stay at home, over the rows of a block; dedups among them decide."""
        run = BlockRun(
            tracks,
            self.context,
            self._pass.tail,
            self.head.trace_num,
            self._remembering(),
            self.head.learned,
        )
        run.run()
        done = self.head.done(run, self._pass, len(tracks), at_end=True)
        self._refuse_bad(done)
        self.funnel.take(done.report, {})
        self._add(done.sums or Sums())

    def _refuse_bad(self, done: Done) -> None:
        if self.config.stops_at_faults and done.bad is not None:
            raise DataError(
                f"{self.config.dataset_path}: {done.bad}; mend or remove the row, or set "
                "strict: false to go on without it"
            )

    def _add(self, sums: Sums) -> None:
        """A block of which nothing is left to decide."""
        is_last = self._pass.barrier is None
        data = DATA if is_last else f"work-{self.number}"
        beside = STATS if is_last else f"beside-{self.number}"
        lines = (sums.data, sums.beside, sums.dropped)
        for name, part in zip((data, beside, DROPPED), lines, strict=True):
            self.outputs.append_raw(name, part)
        self.funnel.add(sums.drops, sums.changed, sums.added)
        self._write_traces(sums.traces)
        if is_last:
            self.funnel.rows_out += sums.alive

    def _repeats(self, fates: Fates) -> dict[int, Repeat]:
        """The rows of a block that repeat earlier ones."""
        found: dict[int, Repeat] = {}
        told: set[str] = set()
        new: dict[int, list[bytes]] = {place: [] for place in self.matchers}
        for at, keys in fates.keys:
            for place, key, uid in keys:
                first = self.matchers[place].find(key)
                if first is None:
                    self.matchers[place].add(key, uid)
                    new[place].append(_key_line(key, uid))
                elif first != uid:
                    # Rows that came of one row are told of once.
                    drop = None if uid in told else repeat_of(self._at(place), first)
                    found[at] = Repeat(place, uid, drop)
                    told.add(uid)
                    break
        for place, lines in new.items():
            self.outputs.append(f"keys-{place}", lines)
        return found

    def _at(self, place: int) -> Bound:
        return next(bound for bound in self.bounds if bound.place == place)

    def _remembering(self) -> dict[int, Matcher]:
        return {place: _Recorded(self, place) for place in self.matchers}

    def _write_traces(self, traces: Sequence[tuple[int, bytes]]) -> None:
        lines = []
        for place, line in traces:
            count = self.funnel.ops[place]
            if count.traced < self.head.trace_num:
                count.traced += 1
                lines.append(line)
        if lines:
            self.outputs.append(CHANGED, lines)

    def _end_pass(self) -> None:
        """Let the pass's barrier decide, and go on to the next pass."""
        bound = self._pass.barrier
        if bound is not None:
            since = time.perf_counter()
            reasons, more = self._barrier(self.number).settle(self.context)
            for reason, count in reasons.items():
                self.funnel.ops[bound.place].reasons[reason] += count
            self.funnel.grow(bound.place, more)
            self.funnel.ops[bound.place].seconds += time.perf_counter() - since
        self.number += 1
        self.at = Position()
        if self.number < len(self.plan.passes):
            self.outputs.commit(self._state)

    def _refuse_nothing(self) -> None:
        """A dataset in which nothing can be used is a mistake, not an empty result."""
        funnel, path = self.funnel, self.config.dataset_path
        if funnel.rows_in == 0:
            raise DataError(f"dataset {path} holds no rows")
        if funnel.bad.total() == funnel.rows_in:
            first = decode(next(lines_of(self.outputs.path(DROPPED))))
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

    def __init__(self, run: ProcessRun, place: int):
        self._run, self._place = run, place

    def find(self, key: bytes) -> str | None:
        """The uid of the first kept row that `key` repeats."""
        return self._run.matchers[self._place].find(key)

    def add(self, key: bytes, uid: str) -> None:
        """Remember and record the key."""
        self._run.matchers[self._place].add(key, uid)
        self._run.outputs.append(f"keys-{self._place}", [_key_line(key, uid)])


def _key_line(key: bytes, uid: str) -> bytes:
    return f"{key.hex()} {uid}".encode()


def _peak_mb() -> float:
    """Most memory this process held, and as much again for each worker's most."""
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    per_mb = 1024 if sys.platform == "linux" else 1024 * 1024
    return round((own + child) / per_mb, 1)


__all__ = ["CHANGED", "DATA", "DROPPED", "FUNNEL", "STATS", "Plan", "run_process"]
