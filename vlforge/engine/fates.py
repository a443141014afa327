"""What a block of rows has come to, in a shape that is cheap to hand from worker to parent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vlforge.data.json_lines import encode, encode_lines
from vlforge.engine.block import BlockReport, BlockRun, Track
from vlforge.engine.config import ProcessConfig
from vlforge.engine.lines import (
    dropped_line,
    exported,
    stats_of,
    stats_told,
    work_line,
    work_told,
)
from vlforge.engine.plan import Pass, Plan, make_plan
from vlforge.engine.rows import Reading, reading_of, work_track
from vlforge.engine.source import Block
from vlforge.ops.base import CorpusMapper, NearDedup
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import Bound
from vlforge.types import Drop

Name = tuple[str, Any, int]
"""uid, id and line of a row."""


class Fate(NamedTuple):
    """What became of one row; lines are encoded already.

    `reason` is None while the row is alive: then `data` and `beside` are its
    line and its statistics (or its key at the pass's barrier), or `item` is the
    row itself where more is to be done with it. `row` is the row at its first
    dedup, as a line.
    """

    name: Name
    reason: str | None
    place: int
    dropped: bytes | None
    keys: Sequence[tuple[int, bytes, str]]
    changes: Sequence[int]
    traces: Sequence[tuple[int, bytes]]
    born: int | None
    row: bytes | None
    data: bytes | None
    beside: bytes | None
    item: Item | None


@dataclass
class Sums:
    """A block of which nothing is left to decide: whole files' worth of lines, and counts."""

    data: bytes = b""
    beside: bytes = b""
    dropped: bytes = b""
    alive: int = 0
    drops: Counter[tuple[int, str]] = field(default_factory=Counter)
    changed: Counter[int] = field(default_factory=Counter)
    added: Counter[int] = field(default_factory=Counter)
    traces: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass
class Done:
    """A block that went through some steps: row by row, or summed up where that is enough.

    `read` counts the rows that came in, `bad` tells of the first that an
    operator or the reader could not use.
    """

    read: int
    report: BlockReport
    fates: list[Fate] = field(default_factory=list)
    sums: Sums | None = None
    bad: str | None = None


@dataclass(frozen=True)
class Head:
    """The part of a pass that workers run; inherited by them through fork."""

    plan: Plan
    reading: Reading
    context: Context
    trace_num: int
    keeps_stats: bool
    learned: Mapping[int, Any] = field(default_factory=dict)

    def __call__(self, job: tuple[int, Block | Sequence[bytes]]) -> Done:
        """Take a block of the source, or lines between passes, through the head of a pass."""
        number, block = job
        this = self.plan.passes[number]
        if isinstance(block, Block):
            tracks = self.reading.tracks(block)
        else:
            tracks = [work_track(line) for line in block]
        read = len(tracks)
        run = BlockRun(tracks, self.context, this.head, self.trace_num, learned=self.learned)
        run.run()
        return self.done(run, this, read, at_end=not this.tail)

    def done(self, run: BlockRun, this: Pass, read: int, *, at_end: bool) -> Done:
        """A block's rows as results; `at_end` after the pass's last step."""
        keys: dict[int, bytes] = {}
        if at_end and this.barrier is not None:
            keys = self._barrier_keys(run, this.barrier)
        done = Done(read, run.report, bad=_first_bad(run.tracks))
        order = self.plan.stats
        if at_end and not this.has_dedup:
            done.sums = self._sums(run.tracks, this, keys, order)
        else:
            done.fates = [
                self._fate(track, order, keys.get(id(track)), at_end=at_end) for track in run.tracks
            ]
        return done

    def _sums(
        self, tracks: Sequence[Track], this: Pass, keys: Mapping[int, bytes], order: list[str]
    ) -> Sums:
        """All rows of a block together, at the end of a pass that leaves nothing to decide."""
        items = [track.item for track in tracks if track.drop is None]
        sums = Sums(alive=len(items))
        if this.barrier is not None:
            sums.data = encode_lines([work_told(item) for item in items])
            sums.beside = _beside([keys[id(t)] for t in tracks if t.drop is None], this)
        else:
            stats = [stats_of(item, order) for item in items]
            both = list(zip(items, stats, strict=True))
            sums.data = encode_lines([exported(i, s, self.keeps_stats) for i, s in both])
            sums.beside = encode_lines([stats_told(i, s) for i, s in both])
        dropped = []
        for track in tracks:
            if track.drop is not None:
                sums.drops[track.place, track.drop.reason] += 1
                item = track.item
                name = (item.uid, item.row.get("id"), item.line)
                dropped.append(dropped_line(name, track.drop, item.row))
            if track.changes:
                sums.changed.update(track.changes)
                sums.traces += track.traces
            if track.born is not None:
                sums.added[track.born] += 1
        sums.dropped = _lines(dropped)
        return sums

    def _barrier_keys(self, run: BlockRun, bound: Bound) -> dict[int, bytes]:
        """Per row that is alive, its key at the barrier, ready to be appended to a file."""
        op: Any = bound.op
        alive = [track for track in run.tracks if track.drop is None]
        if isinstance(op, NearDedup):
            nothing = bytes(1 + op.key_bytes)
            keys = {}
            for track, key in zip(alive, op.keys(run.batch(alive)), strict=True):
                if isinstance(key, Drop):
                    track.drop = Drop(bound.name, key.reason, key.stat, key.value, key.bound)
                    track.place = bound.place
                else:
                    keys[id(track)] = nothing if key is None else b"\1" + key
            return keys
        if isinstance(op, CorpusMapper):
            found = op.keys(run.batch(alive))
            return {id(t): encode(key) for t, key in zip(alive, found, strict=True)}
        return {id(track): encode(op.key(track.item)) for track in alive}

    def _fate(self, track: Track, order: list[str], key: bytes | None, *, at_end: bool) -> Fate:
        item, drop = track.item, track.drop
        name = (item.uid, item.row.get("id"), item.line)
        row = encode(track.at_dedup or item.row) if track.keys else None
        marks = (track.keys, track.changes, track.traces, track.born, row)
        if drop is not None:
            line = dropped_line(name, drop, item.row)
            return Fate(name, drop.reason, track.place, line, *marks, None, None, None)
        if not at_end:
            return Fate(name, None, -1, None, *marks, None, None, item)
        if key is not None:
            return Fate(name, None, -1, None, *marks, work_line(item), key, None)
        stats = stats_of(item, order)
        data = encode(exported(item, stats, self.keeps_stats))
        return Fate(name, None, -1, None, *marks, data, encode(stats_told(item, stats)), None)


def context_of(config: ProcessConfig, seed: int, produced: str) -> Context:
    """What operators share, models apart; `produced` is the folder for files that they make."""
    return Context(
        config.image_special_token, config.eoc_special_token, seed=seed, produced=produced
    )


def head_of(
    config: ProcessConfig,
    bounds: Sequence[Bound],
    seed: int,
    produced: str,
    learned: Mapping[int, Any],
) -> Head:
    """What turns blocks of a recipe into results, here or in any other process."""
    return Head(
        make_plan(bounds),
        reading_of(config),
        context_of(config, seed, produced),
        config.trace_num if config.open_tracer else 0,
        config.keep_stats_in_res_ds,
        learned,
    )


def joined(fates: Sequence[Fate], this: Pass) -> Sums:
    """The lines of rows that are alive at the end of a pass, and nothing counted but them."""
    data = _lines(fate.data or b"" for fate in fates)
    return Sums(data, _beside([fate.beside or b"" for fate in fates], this), alive=len(fates))


def _beside(parts: Sequence[bytes], this: Pass) -> bytes:
    """What stands beside the rows; keys of near dedups have a fixed width, others are lines."""
    is_framed = this.barrier is not None and isinstance(this.barrier.op, NearDedup)
    return b"".join(parts) if is_framed else _lines(parts)


def _lines(parts: Any) -> bytes:
    return b"".join([part + b"\n" for part in parts])


def _first_bad(tracks: Sequence[Track]) -> str | None:
    """Of the first row that could not be used: where it stands and why."""
    for track in tracks:
        drop = track.drop
        if drop is not None and drop.stat is None:
            row_id = track.item.row.get("id")
            named = f"line {track.item.line}" + ("" if row_id is None else f" (id {row_id})")
            value = "" if drop.value is None else f": {drop.value}"
            return f"{named}: {drop.op}: {drop.reason}{value}"
    return None
