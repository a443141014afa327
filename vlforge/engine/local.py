"""The `process` stage on one machine: `run_process`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from vlforge.data.json_lines import decode, encode
from vlforge.data.machine import cores
from vlforge.engine.answers import AnswerFolder
from vlforge.engine.barriers import DROPPED, Barrier, lines_of
from vlforge.engine.block import Track, repeat_of
from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import Done, Fates, Head, Repeat, Sums, context_of, head_of
from vlforge.engine.funnel import Funnel
from vlforge.engine.legs import Flight, Hands, Sky, finished, leg_run
from vlforge.engine.machines import Job, Machines, machines_for
from vlforge.engine.outputs import Outputs, cannot_write, write_whole
from vlforge.engine.plan import TEXT_BLOCK, Pass, Plan, make_plan, operators_of
from vlforge.engine.source import Block, Position, open_source
from vlforge.ops.base import CorpusMapper, Dedup
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
_NO_MATTER = ("np", "model_workers", "replies", "executor_type", "ray_address")
"""What changes where and how fast things are done, and not what comes out."""
_FORMAT = 3
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
    machines = machines_for(config, seed, Path(out), workers, log)
    return ProcessRun(config, Path(out), models, seed, workers, progress, log, machines).run()


class ProcessRun:
    """One run: the plan, the files and the counts. `machines` are where the blocks run."""

    def __init__(
        self,
        config: ProcessConfig,
        out: Path,
        models: ModelSource | None,
        seed: int,
        workers: int,
        progress: ProgressFn,
        log: LogFn,
        machines: Machines,
    ):
        self.machines = machines
        self.hands: Hands | None = None
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
        self.answers = AnswerFolder(self.outputs.folder.absolute(), self.outputs.key)
        self.models = models
        self.landed: list[str] = []
        self.asked = self.remembered = 0
        self.number = 0
        self.at = Position()

    def run(self) -> dict[str, Any]:
        """All passes, from the last commit on."""
        since = time.perf_counter()
        for note in (note for bound in self.bounds for note in bound.notes):
            self.log({"event": "note", "note": note})
        state = self.outputs.resume()
        before = self._restore(state) if state else 0.0
        self.answers.clear_others()
        try:
            while self.number < len(self.plan.passes):
                self._stream()
                self._end_pass()
            self._refuse_nothing()
            self._say_spent()
            summary = self._finish(before + time.perf_counter() - since)
        except BaseException:
            self.outputs.close()
            raise
        finally:
            if self.hands is not None:
                self.hands.close()
            self.machines.close()
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
        config = asdict(self.config) | dict.fromkeys(_NO_MATTER)
        spec = self.config.endpoints.items()
        config["endpoints"] = {name: [one.url, one.model] for name, one in spec}
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
        ahead: deque[Position] = deque()
        self._named: deque[str] = deque()
        self.head = self._head()
        rows = self.plan.block_rows
        total = self.source.row_count() if self.number == 0 else self._count_before()
        seen = self.funnel.rows_in if self.number == 0 else self.at.number * rows

        def jobs() -> Iterator[Job]:
            for block, after in self._blocks(rows):
                ahead.append(after)
                self._named.append("-".join(map(str, (self.number, *astuple(after)))))
                yield self.number, block

        at_home = _TEXT_AT_HOME if rows == TEXT_BLOCK else _PIXELS_AT_HOME
        blocks = self.machines.spread(self.head, jobs(), self.workers, at_home)
        with closing(self._flown(blocks)) as flights:
            for flight in flights:
                self._land(flight)
                seen += flight.read
                self.at = ahead.popleft()
                self.progress(seen, total, self._told())
                if self.outputs.due():
                    self._commit()

    def _blocks(self, rows: int) -> Iterator[tuple[Block | Sequence[bytes], Position]]:
        """The blocks that are left of this pass, and where the one after each starts."""
        if self.number > 0:
            return self._barrier(self.number - 1).blocks(rows, self.at)
        return ((block, block.next) for block in self.source.blocks(rows, self.at))

    def _commit(self) -> None:
        self.outputs.commit(self._state)
        self.answers.forget(self.landed)
        self.landed = []

    def _flown(self, blocks: Iterator[Done]) -> Generator[Flight, None, None]:
        """The blocks behind all of their steps, in order; some are under way at once."""
        flights: Iterator[Flight] = map(self._settled, blocks)
        legs = self._pass.legs
        if any(leg.is_modelled for leg in legs) and self.hands is None:
            self.hands = self.machines.hands(self.models, self.plan)
        if self.hands is not None:
            self.hands.begin(self.head)
            sky = Sky(self.hands)
        for at, leg in enumerate(legs):
            if leg.is_modelled:
                flights = sky.through(self.number, at, flights, self.answers)
            else:
                flights = map(partial(self._decided, at), flights)
        yield from flights

    def _count_before(self) -> int:
        return self._barrier(self.number - 1).row_count()

    def _told(self) -> str:
        """Beside the progress bar: the pass where there are several, kept and dropped rows."""
        several = len(self.plan.passes) > 1
        told = f"pass {self.number + 1} of {len(self.plan.passes)}, " if several else ""
        if self._pass.barrier is None:
            told += f"{self.funnel.rows_out} kept, "
        told += f"{self.funnel.dropped} dropped"
        if self.asked + self.remembered:
            told += f", {self.asked} answers"
        return told + (f" and {self.remembered} from before" if self.remembered else "")

    def _settled(self, done: Done) -> Flight:
        """A block from the workers, its repeats decided."""
        flight = Flight(self._named.popleft(), done.read, bad=done.bad)
        if done.fates is None:
            flight.reports.append((done.report, {}))
            flight.sums.append(done.sums or Sums())
            return flight
        repeats = self._repeats(done.fates, flight)
        gone = {at: repeat.place for at, repeat in repeats.items()}
        flight.reports.append((done.report, gone))
        sums, items = done.fates.settled(repeats)
        flight.sums.append(sums)
        flight.tracks = [Track(item) for item in items]
        return flight

    def _decided(self, at: int, flight: Flight) -> Flight:
        """A block behind a leg whose dedups decide in the order of the blocks."""
        matchers = {place: _Recorded(self, place, flight) for place in self.matchers}
        leg = self._pass.legs[at]
        run = leg_run(self.head, self.context, leg, flight.tracks, matchers)
        flight.take(finished(self.head, self.number, at, run))
        return flight

    def _land(self, flight: Flight) -> None:
        """Let all that a block has come to take effect."""
        if self.number == 0:
            self.funnel.rows_in += flight.read
        self._refuse_bad(flight.bad)
        for place, lines in flight.keys.items():
            self.outputs.append(f"keys-{place}", lines)
        for report, gone in flight.reports:
            self.funnel.take(report, gone)
        for sums in flight.sums:
            self._add(sums)
        self.landed.append(flight.name)
        self.asked += flight.asked
        self.remembered += flight.remembered

    def _refuse_bad(self, bad: str | None) -> None:
        if self.config.stops_at_faults and bad is not None:
            raise DataError(
                f"{self.config.dataset_path}: {bad}; mend or remove the row, or set "
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

    def _repeats(self, fates: Fates, flight: Flight) -> dict[int, Repeat]:
        """The rows of a block that repeat earlier ones."""
        found: dict[int, Repeat] = {}
        told: set[str] = set()
        for at, keys in fates.keys:
            for place, key, uid in keys:
                first = self.matchers[place].find(key)
                if first is None:
                    self.matchers[place].add(key, uid)
                    flight.keys.setdefault(place, []).append(_key_line(key, uid))
                elif first != uid:
                    # Rows that came of one row are told of once.
                    drop = None if uid in told else repeat_of(self._at(place), first)
                    found[at] = Repeat(place, uid, drop)
                    told.add(uid)
                    break
        return found

    def _at(self, place: int) -> Bound:
        return next(bound for bound in self.bounds if bound.place == place)

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
            self._commit()

    def _say_spent(self) -> None:
        """What servers were asked for, one line each."""
        total: dict[str, Any] = {}
        for told in self.hands.spent() if self.hands is not None else ():
            for name, usage in told.items():
                total[name] = total[name] + usage if name in total else usage
        for name, usage in total.items():
            self.log({"event": "note", "note": f"{name}: {usage.line()}"})

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
        self.answers.remove()
        try:
            write_whole(self.outputs.folder / FUNNEL, msgspec.json.format(encode(summary)))
        except OSError as error:
            raise cannot_write(self.outputs.folder / FUNNEL, error) from None
        return summary


class _Recorded:
    """A matcher whose new keys also go with a block, to be written when it lands."""

    def __init__(self, run: ProcessRun, place: int, flight: Flight):
        self._matcher, self._place, self._flight = run.matchers[place], place, flight

    def find(self, key: bytes) -> str | None:
        """The uid of the first kept row that `key` repeats."""
        return self._matcher.find(key)

    def add(self, key: bytes, uid: str) -> None:
        """Remember the key, and record it."""
        self._matcher.add(key, uid)
        self._flight.keys.setdefault(self._place, []).append(_key_line(key, uid))


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
