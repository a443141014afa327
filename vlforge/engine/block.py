"""Taking one block of rows through the steps of a pass. Runs in workers and at home alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlforge.engine.lines import changed_line
from vlforge.engine.plan import Step
from vlforge.ops.base import (
    Dedup,
    Filter,
    Grown,
    Matcher,
    RowMapper,
    TextMapper,
    look_up,
    replaced,
)
from vlforge.ops.batch import Batch, Context, Files, Item, needs_pixels
from vlforge.ops.bind import Bound
from vlforge.types import Drop, Row

READ = -1
"""Place of the drop records that reading makes, before any operator."""


@dataclass(slots=True)
class Track:
    """What became of one row: alive while `drop` is None.

    `place` is the operator that dropped it. `keys` are its keys at dedups that
    are decided later, in order of rows; `at_dedup` is the row as it was there.
    """

    item: Item
    drop: Drop | None = None
    place: int = READ
    keys: list[tuple[int, bytes]] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    at_dedup: Row | None = None


@dataclass
class BlockReport:
    """What the operators saw in a block, for the funnel.

    `measured[place]` holds, per row that the filter judged, its place among the
    tracks, its values and whether it stayed.
    """

    measured: dict[int, tuple[list[int], list[list[Any]], list[bool]]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    added: dict[int, int] = field(default_factory=dict)
    traces: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(place, track, line for `changed.jsonl`) of the first rows that a mapper changed."""

    def add_seconds(self, place: int, since: float) -> None:
        """Charge the time since `since` to an operator."""
        self.seconds[place] = self.seconds.get(place, 0.0) + time.perf_counter() - since


class BlockRun:
    """One block on its way through some steps.

    With `matchers` dedups decide at once; without, the keys are kept on the
    tracks for whoever sees the blocks in order. That is the same result:
    everything else decides row by row, so a row that turns out a repeat only
    cost its work.
    """

    def __init__(
        self,
        tracks: list[Track],
        context: Context,
        steps: Sequence[Step],
        trace_num: int = 0,
        matchers: Mapping[int, Matcher] | None = None,
    ):
        self.tracks = tracks
        self.context = context
        self.steps = steps
        self.trace_num = trace_num
        self.matchers = matchers
        self.report = BlockReport()
        self._traced: dict[int, int] = {}
        viewers: list[Any] = [b.op for s in steps for b in s.ops if needs_pixels(b.op)]
        self.files = Files(viewers)

    def run(self) -> BlockReport:
        """Take all rows through all steps; `tracks` tells what became of them."""
        for number, step in enumerate(self.steps):
            alive = [at for at, track in enumerate(self.tracks) if track.drop is None]
            if not alive:
                break
            batch = self._batch(alive)
            op = step.ops[0].op
            if isinstance(op, Filter):
                self._filters(step.ops, alive, batch)
            elif isinstance(op, TextMapper):
                self._rewrite(step.ops[0], alive, batch)
            elif isinstance(op, RowMapper):
                self._grow(step.ops[0], alive, batch)
            elif isinstance(op, Dedup):
                self._dedup(step.ops[0], alive, batch, rewritten_later=number + 1 < len(self.steps))
        return self.report

    def _batch(self, alive: Sequence[int]) -> Batch:
        return Batch([self.tracks[at].item for at in alive], self.context, self.files)

    def _filters(self, ops: Sequence[Bound], alive: list[int], batch: Batch) -> None:
        for bound in ops:
            op = bound.op
            assert isinstance(op, Filter)
            since = time.perf_counter()
            columns = self._measure(op, alive, batch)
            self._judge(bound, op, alive, columns)
            self.report.add_seconds(bound.place, since)

    def _judge(
        self, bound: Bound, op: Filter, alive: Sequence[int], columns: tuple[list[Any], ...]
    ) -> None:
        """Drop rows without a value and rows that the filter does not keep; note the others."""
        tracks = self.tracks
        faults = [at for at, value in enumerate(columns[0]) if isinstance(value, Drop)]
        for at in faults:
            track = tracks[alive[at]]
            if track.drop is None:
                track.drop, track.place = replace(columns[0][at], op=bound.name), bound.place
        if faults:
            bad = set(faults)
            alive = [row for at, row in enumerate(alive) if at not in bad]
            columns = tuple([v for at, v in enumerate(c) if at not in bad] for c in columns)
        for name, column in zip(op.stats, columns, strict=True):
            for at, value in zip(alive, column, strict=True):
                tracks[at].item.stats[name] = value
        judged = [at for at, row in enumerate(alive) if tracks[row].drop is None]
        if len(judged) < len(alive):
            alive = [alive[at] for at in judged]
            columns = tuple([column[at] for at in judged] for column in columns)
        stays = op.keep_all(columns)
        for at, is_kept in enumerate(stays):
            if not is_kept:
                track = tracks[alive[at]]
                track.drop = op.fault(bound.name, [column[at] for column in columns])
                track.place = bound.place
        self.report.measured[bound.place] = (list(alive), list(columns), stays)

    def _measure(self, op: Filter, alive: list[int], batch: Batch) -> tuple[list[Any], ...]:
        """`op.measure`, but statistics that came with the file are taken as they are."""
        given = [
            tuple(item.given[s] for s in op.stats)
            if item.given and all(s in item.given for s in op.stats)
            else None
            for item in batch.items
        ]
        if all(values is None for values in given):
            return op.measure(batch)
        missing = [at for at, values in zip(alive, given, strict=True) if values is None]
        fresh = zip(*op.measure(self._batch(missing)), strict=True) if missing else iter(())
        rows = [next(fresh) if values is None else values for values in given]
        return tuple(map(list, zip(*rows, strict=True)))

    def _rewrite(self, bound: Bound, alive: list[int], batch: Batch) -> None:
        op = bound.op
        assert isinstance(op, TextMapper)
        since = time.perf_counter()
        for at, before in zip(alive, batch.texts(op.text_key), strict=True):
            after = op.rewrite(before)
            if after == before:
                continue
            track = self.tracks[at]
            track.item.row = replaced(track.item.row, op.text_key, after)
            track.item.given = {}
            track.changes.append(bound.place)
            self._trace(bound, at, track.item, before, after)
        self.report.add_seconds(bound.place, since)

    def _grow(self, bound: Bound, alive: list[int], batch: Batch) -> None:
        op = bound.op
        assert isinstance(op, RowMapper)
        since = time.perf_counter()
        results = dict(zip(alive, op.apply(batch), strict=True))
        grown: list[Track] = []
        for at, track in enumerate(self.tracks):
            result = results.get(at)
            if result is None:
                grown.append(track)
            elif isinstance(result, Drop):
                track.drop, track.place = replace(result, op=bound.name), bound.place
                grown.append(track)
            else:
                grown += self._offspring(bound, track, result, len(grown))
        self.tracks = grown
        self.report.add_seconds(bound.place, since)

    def _offspring(self, bound: Bound, track: Track, result: Grown, at: int) -> list[Track]:
        """The rows that follow from one, the row itself first where it stays."""
        key = getattr(bound.op, "text_key", "text")
        item = track.item
        out = [track] if result.keeps_original else []
        stats = result.stats or ({},) * len(result.rows)
        earlier = [] if result.keeps_original else track.changes
        for number, (row, found) in enumerate(zip(result.rows, stats, strict=True), 1):
            child = Item(f"{item.uid}/{number}", item.line, row, {**item.stats, **found})
            before, after = look_up(item.row, key), look_up(row, key)
            self._trace(bound, at + len(out), child, before, after)
            out.append(Track(child, changes=[*earlier, bound.place]))
            earlier = []
        extra = len(out) - 1
        self.report.added[bound.place] = self.report.added.get(bound.place, 0) + extra
        return out

    def _trace(self, bound: Bound, at: int, item: Item, before: Any, after: Any) -> None:
        traced = self._traced.get(bound.place, 0)
        if traced < self.trace_num:
            self._traced[bound.place] = traced + 1
            line = changed_line(item, bound.name, before, after)
            self.report.traces.append((bound.place, at, line))

    def _dedup(
        self, bound: Bound, alive: list[int], batch: Batch, *, rewritten_later: bool
    ) -> None:
        op = bound.op
        assert isinstance(op, Dedup)
        since = time.perf_counter()
        for at, key in zip(alive, op.keys(batch), strict=True):
            track = self.tracks[at]
            if isinstance(key, Drop):
                track.drop, track.place = replace(key, op=bound.name), bound.place
            elif key is not None and self.matchers is not None:
                decide(track, bound, key, self.matchers[bound.place])
            elif key is not None:
                track.keys.append((bound.place, key))
                if rewritten_later and track.at_dedup is None:
                    track.at_dedup = track.item.row
        self.report.add_seconds(bound.place, since)


def decide(track: Track, bound: Bound, key: bytes, matcher: Matcher) -> None:
    """Drop the row if an earlier one has its key, else remember it."""
    first = matcher.find(key)
    if first is None:
        matcher.add(key, track.item.uid)
    else:
        track.drop = Drop(bound.name, "repeats an earlier row", "repeats", first, None)
        track.place = bound.place
