"""What a block of rows has come to, in a shape that is cheap to hand from worker to parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlforge.data.json_lines import encode
from vlforge.engine.block import BlockReport, BlockRun, Track
from vlforge.engine.lines import dropped_line, export_line, stats_line, stats_of, work_line
from vlforge.engine.plan import Plan
from vlforge.engine.rows import Reading, work_track
from vlforge.ops.batch import Context, Item


class Fate(NamedTuple):
    """What became of one row; lines are encoded already.

    `reason` is None while the row is alive: then `data` and `stats` are its
    lines, or `item` is the row itself where more is to be done with it. `row`
    is the row at its first dedup, as a line.
    """

    name: tuple[str, Any, int]
    reason: str | None
    place: int
    dropped: bytes | None
    keys: Sequence[tuple[int, bytes]]
    changes: Sequence[int]
    row: bytes | None
    data: bytes | None
    stats: bytes | None
    item: Item | None


@dataclass
class Done:
    """A block that went through some steps."""

    fates: list[Fate]
    report: BlockReport


@dataclass(frozen=True)
class Head:
    """The part of a pass that workers run; inherited by them through fork."""

    plan: Plan
    reading: Reading
    context: Context
    trace_num: int
    keeps_stats: bool

    def __call__(self, job: tuple[int, int, Sequence[bytes]]) -> Done:
        """Take (pass, number of the first line, lines) through the head of the pass."""
        number, first_line, lines = job
        this = self.plan.passes[number]
        if number == 0:
            tracks = self.reading.tracks(first_line, lines)
        else:
            tracks = [work_track(line) for line in lines]
        run = BlockRun(tracks, self.context, this.head, self.trace_num)
        run.run()
        is_last = not this.tail and this.selector is None
        return self.done(run, is_last=is_last)

    def done(self, run: BlockRun, *, is_last: bool) -> Done:
        """The fates of a block's rows; `is_last` encodes the rows that are kept."""
        order = self.plan.stats
        return Done([self._fate(track, order, is_last) for track in run.tracks], run.report)

    def _fate(self, track: Track, order: Sequence[str], is_last: bool) -> Fate:
        item, drop = track.item, track.drop
        name = (item.uid, item.row.get("id"), item.line)
        row = encode(track.at_dedup or item.row) if track.keys else None
        fixed = (track.keys, track.changes, row)
        if drop is not None:
            line = dropped_line(name, drop, item.row)
            return Fate(name, drop.reason, track.place, line, *fixed, None, None, None)
        if not is_last:
            return Fate(name, None, -1, None, *fixed, None, None, item)
        stats = stats_of(item, order)
        data = export_line(item, stats, self.keeps_stats)
        return Fate(name, None, -1, None, *fixed, data, stats_line(item, stats), None)


def spilled(item: Item) -> bytes:
    """A row between two passes, as a line."""
    return work_line(item)
