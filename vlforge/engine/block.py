"""Taking one block of rows through the steps of a pass. Runs in workers and at home alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from vlforge.engine.ahead import AheadFiles
from vlforge.engine.histogram import Histogram, histograms
from vlforge.engine.lines import changed_line
from vlforge.engine.plan import KEYED, Step
from vlforge.ops.base import (
    CorpusMapper,
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
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import Drop, Row

READ = -1
"""Place of the drop records that reading makes, before any operator."""


class Track(msgspec.Struct):
    """What became of one row: alive while `drop` is None.

    `place` is the operator that dropped it. `keys` are its keys at dedups that
    are decided later, in order of rows, with the uid that the row had there;
    `at_dedup` is the row as it was at the first. `born` is the mapper that added
    the row to those there were. `barrier_key` is the key at the barrier, where
    working it out is a step.
    """

    item: Item
    drop: Drop | None = None
    place: int = READ
    keys: tuple[tuple[int, bytes, str], ...] = ()
    changes: tuple[int, ...] = ()
    traces: tuple[tuple[int, bytes], ...] = ()
    at_dedup: Row | None = None
    born: int | None = None
    barrier_key: bytes | None = None


class BlockReport(msgspec.Struct):
    """What the operators saw in a block, for the funnel.

    `counted[place]` are the histograms of a filter's statistics. `measured[place]`
    stands for them where a dedup before the filter may still take rows back: the
    rows that the filter judged, as places among the block's tracks, its values,
    and whether each row stayed.
    """

    counted: dict[int, dict[str, Histogram]] = msgspec.field(default_factory=dict)
    measured: dict[int, tuple[list[int], list[list[Any]], list[bool]]] = msgspec.field(
        default_factory=dict
    )
    seconds: dict[int, float] = msgspec.field(default_factory=dict)

    def add_seconds(self, place: int, since: float) -> None:
        """Charge the time since `since` to an operator."""
        self.seconds[place] = self.seconds.get(place, 0.0) + time.perf_counter() - since


class BlockRun:
    """One block on its way through some steps.

    With `matchers` dedups decide at once; without, the keys are kept on the
    tracks for whoever sees the blocks in order. That is the same result:
    everything else decides row by row, so a row that turns out a repeat only
    cost its work. `learned` is what corpus mappers know of all rows; `files` may decode
    ahead.
    """

    def __init__(
        self,
        tracks: list[Track],
        context: Context,
        steps: Sequence[Step],
        trace_num: int = 0,
        matchers: Mapping[int, Matcher] | None = None,
        learned: Mapping[int, Any] | None = None,
        files: Files | None = None,
    ):
        self.tracks = tracks
        self.context = context
        self.steps = steps
        self.trace_num = trace_num
        self.matchers = matchers
        self.learned = learned or {}
        self.report = BlockReport()
        self._judged: list[tuple[Bound, tuple[list[Track], list[list[Any]], list[bool]]]] = []
        self._traced: dict[int, int] = {}
        viewers: list[Any] = [b.op for s in steps for b in s.ops if needs_pixels(b.op)]
        self.files: Any = Files(viewers) if files is None else files

    def run(self) -> BlockReport:
        """Take all rows through all steps; `tracks` tells what became of them."""
        for number, step in enumerate(self.steps):
            alive = [track for track in self.tracks if track.drop is None]
            if not alive:
                break
            self._step(step, alive, is_last=number + 1 == len(self.steps))
        self._count()
        return self.report

    def look_ahead(self) -> None:
        """Let the pictures of the first step be decoded, where `files` do that ahead."""
        alive = [track for track in self.tracks if track.drop is None]
        if self.steps and alive:
            self.announce(self.steps[0].ops[0], self.batch(alive))

    def announce(self, bound: Bound, batch: Batch) -> None:
        """Say which operator looks at which rows next."""
        if isinstance(self.files, AheadFiles):
            self.files.begin(bound, batch)

    def _count(self) -> None:
        """Tell of what the filters measured, summed up where no row can be taken back."""
        first = min([keys[0][0] for track in self.tracks if (keys := track.keys)], default=None)
        at: dict[int, int] = {}
        if first is not None:
            at = {id(track): number for number, track in enumerate(self.tracks)}
        for bound, (judged, columns, stays) in self._judged:
            if first is not None and bound.place > first:
                rows = [at.get(id(track), -1) for track in judged]
                self.report.measured[bound.place] = (rows, columns, stays)
            else:
                found = histograms(getattr(bound.op, "stats", ()), columns, stays)
                self.report.counted[bound.place] = found

    def batch(self, tracks: Sequence[Track]) -> Batch:
        """The rows of some tracks, sharing what this block has read of pictures."""
        return Batch([track.item for track in tracks], self.context, self.files)

    def _step(self, step: Step, alive: list[Track], is_last: bool) -> None:
        bound = step.ops[0]
        op = bound.op
        batch = self.batch(alive)
        self.announce(bound, batch)
        if isinstance(op, Filter):
            self._filters(step.ops, alive, batch)
            return
        since = time.perf_counter()
        if isinstance(op, TextMapper):
            self._rewrite(bound, op, alive, batch)
        elif isinstance(op, RowMapper):
            self._grow(bound, alive, op.apply(batch))
        elif isinstance(op, CorpusMapper):
            self._grow(bound, alive, op.apply(batch, self.learned[bound.place]))
        elif isinstance(op, Dedup):
            self._dedup(bound, op, alive, batch, rewritten_later=not is_last)
        elif isinstance(op, KEYED):
            note_keys(bound, alive, batch)
        self.report.add_seconds(bound.place, since)

    def _filters(self, ops: Sequence[Bound], alive: list[Track], batch: Batch) -> None:
        for bound in ops:
            op = bound.op
            assert isinstance(op, Filter)
            since = time.perf_counter()
            columns = self._measure(op, alive, batch)
            self._judge(bound, op, alive, columns)
            self.report.add_seconds(bound.place, since)

    def _judge(
        self, bound: Bound, op: Filter, alive: Sequence[Track], columns: tuple[list[Any], ...]
    ) -> None:
        """Drop rows without a value and rows that the filter does not keep; note the others."""
        faults = [at for at, value in enumerate(columns[0]) if isinstance(value, Drop)]
        if faults:
            self._drop_faults(bound, op, alive, columns[0], faults)
            bad = set(faults)
            alive = [track for at, track in enumerate(alive) if at not in bad]
            columns = tuple([v for at, v in enumerate(c) if at not in bad] for c in columns)
        measured = [track.item.stats for track in alive]
        for name, column in zip(op.stats, columns, strict=bool(op.stats)):
            for stats, value in zip(measured, column, strict=True):
                stats[name] = value
        judged = [at for at, track in enumerate(alive) if track.drop is None]
        if len(judged) < len(alive):
            alive = [alive[at] for at in judged]
            columns = tuple([column[at] for at in judged] for column in columns)
        stays = op.keep_all(columns)
        for at in [at for at, is_kept in enumerate(stays) if not is_kept]:
            track = alive[at]
            track.drop = op.fault(bound.name, [column[at] for column in columns])
            track.place = bound.place
        self._judged.append((bound, (list(alive), list(columns), stays)))

    def _drop_faults(
        self,
        bound: Bound,
        op: Filter,
        alive: Sequence[Track],
        column: Sequence[Any],
        faults: Sequence[int],
    ) -> None:
        """Drop the rows that have no value; as Data-Juicer, on demand, the rest of the batch."""
        for at in faults:
            track = alive[at]
            if track.drop is None:
                track.drop, track.place = replace(column[at], op=bound.name), bound.place
        if op.compat == "data_juicer":
            lost = Drop(bound.name, "lost with a bad row of its batch", None, "compat: data_juicer")
            for track in alive:
                if track.drop is None:
                    track.drop, track.place = lost, bound.place

    def _measure(self, op: Filter, alive: Sequence[Track], batch: Batch) -> tuple[list[Any], ...]:
        """`op.measure`, but statistics that came with the file are taken as they are."""
        if not op.stats or not any(item.given for item in batch.items):
            return op.measure(batch)
        given = [
            tuple(item.given[s] for s in op.stats)
            if item.given and all(s in item.given for s in op.stats)
            else None
            for item in batch.items
        ]
        missing = [track for track, values in zip(alive, given, strict=True) if values is None]
        fresh = zip(*op.measure(self.batch(missing)), strict=True) if missing else iter(())
        rows = [next(fresh) if values is None else values for values in given]
        return tuple(map(list, zip(*rows, strict=True)))

    def _rewrite(self, bound: Bound, op: TextMapper, alive: Sequence[Track], batch: Batch) -> None:
        for track, before in zip(alive, batch.texts(op.text_key), strict=True):
            after = op.rewrite(before)
            if after != before:
                self._change(bound, track, replaced(track.item.row, op.text_key, after))

    def _change(self, bound: Bound, track: Track, row: Row) -> None:
        """Put `row` in the place of the track's row."""
        self._trace(bound, track, track.item, row)
        track.item.row = row
        track.item.given = {}
        track.changes += (bound.place,)

    def _grow(
        self, bound: Bound, alive: Sequence[Track], results: Sequence[Grown | Row | Drop]
    ) -> None:
        found = {id(track): r for track, r in zip(alive, results, strict=True)}
        grown: list[Track] = []
        for track in self.tracks:
            result = found.get(id(track))
            if isinstance(result, Grown) and not result.rows and not result.keeps_original:
                result = Drop(bound.name, "no row is left of it")
            if isinstance(result, Grown):
                grown += self._offspring(bound, track, result)
                continue
            if isinstance(result, Drop):
                track.drop, track.place = replace(result, op=bound.name), bound.place
            elif result is not None and result is not track.item.row:
                self._change(bound, track, result)
            grown.append(track)
        self.tracks = grown

    def _offspring(self, bound: Bound, track: Track, result: Grown) -> list[Track]:
        """The rows that follow from one, the row itself first where it stays."""
        item = track.item
        out = [track] if result.keeps_original else []
        stats = result.stats or ({},) * len(result.rows)
        for number, (row, measured) in enumerate(zip(result.rows, stats, strict=True), 1):
            child = Track(Item(f"{item.uid}/{number}", item.line, row, {**item.stats, **measured}))
            child.keys, child.at_dedup = track.keys, track.at_dedup
            if track.keys and track.at_dedup is None:
                child.at_dedup = item.row
            if out:
                child.born = bound.place
            else:
                child.changes, child.traces = track.changes, track.traces
                child.born = track.born
            if out or row is not item.row:  # a row that only was measured has not changed
                child.changes += (bound.place,)
                self._trace(bound, child, item, row)
            out.append(child)
        return out

    def _trace(self, bound: Bound, track: Track, old: Item, row: Row) -> None:
        traced = self._traced.get(bound.place, 0)
        if traced >= self.trace_num:
            return
        self._traced[bound.place] = traced + 1
        before, after = _difference(old.row, row, bound.op.text_key)
        uid = track.item.uid
        line = changed_line(uid, row.get("id"), bound.name, before, after, row.get(PROVENANCE))
        track.traces += ((bound.place, line),)

    def _dedup(
        self,
        bound: Bound,
        op: Dedup,
        alive: Sequence[Track],
        batch: Batch,
        *,
        rewritten_later: bool,
    ) -> None:
        for track, key in zip(alive, op.keys(batch), strict=True):
            if isinstance(key, Drop):
                track.drop, track.place = replace(key, op=bound.name), bound.place
            elif key is not None and self.matchers is not None:
                decide(track, bound, key, self.matchers[bound.place])
            elif key is not None:
                track.keys += ((bound.place, key, track.item.uid),)
                if rewritten_later and track.at_dedup is None:
                    track.at_dedup = track.item.row


def note_keys(bound: Bound, alive: Sequence[Track], batch: Batch) -> None:
    """Each row's key at a barrier; a row without drops out."""
    op: Any = bound.op
    for track, key in zip(alive, op.keys(batch), strict=True):
        if isinstance(key, Drop):
            track.drop, track.place = replace(key, op=bound.name), bound.place
        else:
            track.barrier_key = key


def decide(track: Track, bound: Bound, key: bytes, matcher: Matcher) -> None:
    """Drop the row if an earlier one has its key, else remember it."""
    first = matcher.find(key)
    if first is None:
        matcher.add(key, track.item.uid)
    else:
        track.drop, track.place = repeat_of(bound, first), bound.place


def repeat_of(bound: Bound, first: str) -> Drop:
    """The drop record of a row that repeats the row `first`."""
    return Drop(bound.name, "repeats an earlier row", "repeats", first, None)


def _difference(old: Row, new: Row, text_key: str) -> tuple[Any, Any]:
    """What a mapper changed: the text alone, or all fields that differ."""
    names = [n for n in {**old, **new} if n != PROVENANCE and old.get(n) != new.get(n)]
    if not names or names == [text_key] or set(names) == {text_key.split(".")[0]}:
        return look_up(old, text_key), look_up(new, text_key)
    return {n: old.get(n) for n in names}, {n: new.get(n) for n in names}
