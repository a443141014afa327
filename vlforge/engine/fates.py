"""What a block of rows has come to, in a shape that is cheap to hand from worker to parent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

import msgspec

from vlforge.data.json_lines import decode, encode, encode_lines
from vlforge.engine.block import BlockReport, BlockRun, Track, note_keys
from vlforge.engine.config import ProcessConfig
from vlforge.engine.lines import STATS, dropped_line, exported, stats_of, stats_told, work_told
from vlforge.engine.plan import KEYED, Pass, Plan, has_key_step, make_plan
from vlforge.engine.rows import Reading, reading_of, work_track
from vlforge.engine.source import Block
from vlforge.ops.base import CorpusMapper, Dedup, Filter
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import Bound
from vlforge.ops.index import places
from vlforge.ops.text.classes import FEW_CHARACTERS
from vlforge.types import Drop, Need

Keys = tuple[tuple[int, bytes, str], ...]
"""Of a row at dedups: the place of each, the key there, and the uid that the row had there."""
_ROW_OF_WORK = 2
"""Where in `work_told` the row is."""


class Sums(msgspec.Struct):
    """A block of which nothing is left to decide: whole files' worth of lines, and counts."""

    data: bytes = b""
    beside: bytes = b""
    dropped: bytes = b""
    alive: int = 0
    drops: Counter[tuple[int, str]] = msgspec.field(default_factory=Counter)
    changed: Counter[int] = msgspec.field(default_factory=Counter)
    added: Counter[int] = msgspec.field(default_factory=Counter)
    traces: list[tuple[int, bytes]] = msgspec.field(default_factory=list)


class Marks(NamedTuple):
    """What mappers did to a row, each by its place; `born` is the one that made it."""

    changes: Sequence[int]
    traces: Sequence[tuple[int, bytes]]
    born: int | None


class Repeat(NamedTuple):
    """A row that repeats an earlier one: the dedup's place, and the row's name there.

    `drop` is None where a row that came of the same one has told of it already.
    """

    place: int
    uid: str
    drop: Drop | None


class Fates(msgspec.Struct):
    """What became of a block's rows, while dedups or models have still to decide about some.

    A row is named by its place in the block. Whoever decides sees `keys`, in the
    order of the rows. `alive` are rows that no operator has dropped; `data` and
    `beside` hold a line of each (`beside` a key of `width` bytes where that is
    not 0), or `items` the rows themselves where more is to be done with them.
    `drops` are the others: place, reason, line. `at_dedup` are the rows, as
    lines, that have changed since their first dedup.
    """

    numbers: list[int]
    """The line of each row in the source."""
    keys: list[tuple[int, Keys]] = msgspec.field(default_factory=list)
    alive: list[int] = msgspec.field(default_factory=list)
    data: bytes = b""
    beside: bytes = b""
    width: int = 0
    items: list[Item] = msgspec.field(default_factory=list)
    drops: dict[int, tuple[int, str, bytes]] = msgspec.field(default_factory=dict)
    marks: dict[int, Marks] = msgspec.field(default_factory=dict)
    at_dedup: dict[int, bytes] = msgspec.field(default_factory=dict)

    def settled(self, repeats: Mapping[int, Repeat]) -> tuple[Sums, list[Item]]:
        """The block without the rows that are repeats; with it the rows to go on with."""
        sums, items = Sums(), self.items
        lines = {at: line for at, (_, _, line) in self.drops.items()}
        if repeats:
            data, beside = _cut(self.data, 0), _cut(self.beside, self.width)
            for at, repeat in repeats.items():
                lines.pop(at, None)
                if repeat.drop is not None:
                    sums.drops[repeat.place, repeat.drop.reason] += 1
                    lines[at] = self._told(at, repeat.uid, repeat.drop, data)
            stays = [n for n, at in enumerate(self.alive) if at not in repeats]
            items = [items[n] for n in stays] if items else items
            sums.data = b"".join([data[n] for n in stays]) if data else b""
            sums.beside = b"".join([beside[n] for n in stays]) if beside else b""
        else:
            stays, sums.data, sums.beside = self.alive, self.data, self.beside
        for at, (place, reason, _) in self.drops.items():
            if at not in repeats:
                sums.drops[place, reason] += 1
        sums.alive = 0 if items else len(stays)
        sums.dropped = _lines([lines[at] for at in sorted(lines)])
        for at, marks in self.marks.items():
            _count(sums, marks, repeats.get(at))
        return sums, items

    def _told(self, at: int, uid: str, drop: Drop, data: Sequence[bytes]) -> bytes:
        """The line of a repeat, with the row as the dedup saw it; `data` as lines."""
        row: Any
        if at in self.drops:
            row = decode(self.drops[at][2])["row"]
        elif self.items:
            row = self.items[self.alive.index(at)].row
        else:
            told = decode(data[self.alive.index(at)])
            row = told[_ROW_OF_WORK] if isinstance(told, list) else told
            row.pop(STATS, None)
        name = (uid, row.get("id"), self.numbers[at])
        seen = self.at_dedup.get(at)
        return dropped_line(name, drop, row if seen is None else decode(seen))


def _cut(joined: bytes, width: int) -> list[bytes]:
    """Lines with their ends, or keys of one width."""
    if width:
        return [joined[at : at + width] for at in range(0, len(joined), width)]
    return joined.splitlines(keepends=True)


def _count(sums: Sums, marks: Marks, repeat: Repeat | None) -> None:
    """Count what mappers did to a row, of a repeat what they did before it was dropped."""
    if repeat is None:
        sums.changed.update(marks.changes)
        sums.traces += marks.traces
    elif repeat.drop is not None:
        sums.changed.update(place for place in marks.changes if place < repeat.place)
        sums.traces += [trace for trace in marks.traces if trace[0] < repeat.place]
    else:
        return
    if marks.born is not None and (repeat is None or marks.born < repeat.place):
        sums.added[marks.born] += 1


class Done(msgspec.Struct):
    """A block that went through some steps: summed up, or row by row where that is not enough.

    `read` counts the rows that came in, `bad` tells of the first that an
    operator or the reader could not use.
    """

    read: int
    report: BlockReport
    fates: Fates | None = None
    sums: Sums | None = None
    bad: str | None = None


class Head(msgspec.Struct, frozen=True):
    """The part of a pass that workers run; inherited by them through fork."""

    plan: Plan
    reading: Reading
    context: Context
    trace_num: int
    keeps_stats: bool
    learned: Mapping[int, Any] = msgspec.field(default_factory=dict)

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
        return self.done(run, this, read, at_end=not this.legs)

    def warm(self, job: tuple[int, Block | Sequence[bytes]]) -> bool:
        """Take a few rows of a block through, so that the operators load what they need.

        False, and nothing done, where that might leave something behind: operators
        that rewrite rows, and a user's own.
        """
        number, block = job
        known = places()
        for bound in (b for step in self.plan.passes[number].head for b in step.ops):
            own = known.get(bound.name, ("",))[0] == type(bound.op).__module__
            if not own or not isinstance(bound.op, Filter | Dedup):
                return False
        lines = block.lines if isinstance(block, Block) else block
        some = _few(lines, self.plan.needs)
        few = lines[:some]
        if isinstance(block, Block):
            self((number, replace(block, lines=few, numbers=block.numbers[:some])))
        else:
            self((number, few))
        return True

    def done(self, run: BlockRun, this: Pass, read: int, *, at_end: bool) -> Done:
        """A block's rows as results; `at_end` after the pass's last step."""
        keys: dict[int, bytes] = {}
        if at_end and this.barrier is not None:
            keys = self._barrier_keys(run, this.barrier)
        done = Done(read, run.report, bad=_first_bad(run.tracks))
        is_decided = run.matchers is not None or not this.has_dedup
        if at_end and is_decided:
            done.sums = self._sums(run.tracks, this, keys)
        else:
            done.fates = self._fates(run.tracks, this, keys, at_end=at_end)
        return done

    def _fates(
        self, tracks: Sequence[Track], this: Pass, keys: Mapping[int, bytes], *, at_end: bool
    ) -> Fates:
        """The rows of a block for whoever sees all blocks in order."""
        fates = Fates([track.item.line for track in tracks])
        for at, track in enumerate(tracks):
            if track.keys:
                fates.keys.append((at, track.keys))
            if track.at_dedup is not None:
                fates.at_dedup[at] = encode(track.at_dedup)
            if track.changes or track.born is not None:
                fates.marks[at] = Marks(track.changes, track.traces, track.born)
            if track.drop is None:
                fates.alive.append(at)
            else:
                fates.drops[at] = (track.place, track.drop.reason, _dropped(track, track.drop))
        alive = [tracks[at] for at in fates.alive]
        if at_end:
            fates.data, fates.beside = self._written(alive, this, keys)
            fates.width = _width(this, keys)
        else:
            fates.items = [track.item for track in alive]
        return fates

    def _written(
        self, alive: Sequence[Track], this: Pass, keys: Mapping[int, bytes]
    ) -> tuple[bytes, bytes]:
        """The lines of rows at the end of a pass, and what stands beside them."""
        items = [track.item for track in alive]
        if this.barrier is not None:
            beside = [keys[id(track)] for track in alive]
            joined = b"".join(beside) if isinstance(this.barrier.op, KEYED) else _lines(beside)
            return encode_lines([work_told(item) for item in items]), joined
        order = self.plan.stats
        stats = [stats_of(item, order) for item in items]
        both = list(zip(items, stats, strict=True))
        data = encode_lines([exported(i, s, self.keeps_stats) for i, s in both])
        return data, encode_lines([stats_told(i, s) for i, s in both])

    def _sums(self, tracks: Sequence[Track], this: Pass, keys: Mapping[int, bytes]) -> Sums:
        """All rows of a block together, at the end of a pass that leaves nothing to decide."""
        alive = [track for track in tracks if track.drop is None]
        sums = Sums(alive=len(alive))
        sums.data, sums.beside = self._written(alive, this, keys)
        dropped = []
        for track in tracks:
            if track.drop is not None:
                sums.drops[track.place, track.drop.reason] += 1
                dropped.append(_dropped(track, track.drop))
            if track.changes or track.born is not None:
                _count(sums, Marks(track.changes, track.traces, track.born), None)
        sums.dropped = _lines(dropped)
        return sums

    def _barrier_keys(self, run: BlockRun, bound: Bound) -> dict[int, bytes]:
        """Per row that is alive, its key at the barrier, ready to be appended to a file."""
        op: Any = bound.op
        alive = [track for track in run.tracks if track.drop is None]
        if isinstance(op, KEYED):
            if not has_key_step(op):
                note_keys(bound, alive, run.batch(alive))
            nothing = bytes(1 + getattr(op, "key_bytes", 0))
            return {
                id(track): nothing if track.barrier_key is None else b"\1" + track.barrier_key
                for track in alive
                if track.drop is None
            }
        if isinstance(op, CorpusMapper):
            batch = run.batch(alive)
            run.announce(bound, batch)
            found = op.keys(batch)
            return {id(t): encode(key) for t, key in zip(alive, found, strict=True)}
        return {id(track): encode(op.key(track.item)) for track in alive}


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


def _width(this: Pass, keys: Mapping[int, bytes]) -> int:
    """Bytes of what stands beside each row; 0 for lines."""
    is_keyed = this.barrier is not None and isinstance(this.barrier.op, KEYED)
    return len(next(iter(keys.values()), b"")) if is_keyed else 0


def _dropped(track: Track, drop: Drop) -> bytes:
    item = track.item
    return dropped_line((item.uid, item.row.get("id"), item.line), drop, item.row)


def _few(lines: Sequence[bytes], needs: Need) -> int:
    """How many lines do for `Head.warm`: one with a picture to decode, else text for an array."""
    if needs >= Need.PIXELS:
        return 1
    sizes = accumulate(map(len, lines))
    return 1 + sum(1 for _ in takewhile(lambda size: size < 2 * FEW_CHARACTERS, sizes))


def _lines(parts: Sequence[bytes]) -> bytes:
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
