"""Counting what went into each operator and what came out, and why."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlforge.engine.block import READ, BlockReport
from vlforge.engine.histogram import Histogram, histograms
from vlforge.engine.plan import kind_of
from vlforge.ops.base import Filter
from vlforge.ops.bind import Bound


class OpCount:
    """What one operator did so far."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.changed = 0
        self.added = 0
        self.traced = 0
        self.seconds = 0.0
        self.stats: dict[str, Histogram] = {}

    def state(self) -> dict[str, Any]:
        """All of it, for a journal."""
        return {
            "reasons": dict(self.reasons),
            "numbers": [self.changed, self.added, self.traced, self.seconds],
            "stats": {name: found.state() for name, found in self.stats.items()},
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> OpCount:
        """The count that `state` describes."""
        self = cls()
        self.reasons = Counter(state["reasons"])
        self.changed, self.added, self.traced, self.seconds = state["numbers"]
        self.stats = {name: Histogram.restored(s) for name, s in state["stats"].items()}
        return self


class Funnel:
    """The counts of a whole run."""

    def __init__(self, bounds: Sequence[Bound]):
        self.bounds = bounds
        self.rows_in = 0
        self.rows_out = 0
        self.bad: Counter[str] = Counter()
        self.ops = {bound.place: OpCount() for bound in bounds}

    def drop(self, place: int, reason: str) -> None:
        """Count one dropped row."""
        if place == READ:
            self.bad[reason] += 1
        else:
            self.ops[place].reasons[reason] += 1

    @property
    def dropped(self) -> int:
        """Rows dropped so far, bad lines included."""
        return self.bad.total() + sum(count.reasons.total() for count in self.ops.values())

    def grow(self, place: int | None, rows: int) -> None:
        """Count rows that an operator made of others; below 0 where it joined some."""
        if place is not None:
            self.ops[place].added += rows

    def add(
        self,
        drops: Mapping[tuple[int, str], int],
        changed: Mapping[int, int],
        added: Mapping[int, int],
    ) -> None:
        """Add the counts of a block: drops per place and reason, changes and new rows per place."""
        for (place, reason), count in drops.items():
            reasons = self.bad if place == READ else self.ops[place].reasons
            reasons[reason] += count
        for place, count in changed.items():
            self.ops[place].changed += count
        for place, count in added.items():
            self.ops[place].added += count

    def take(self, report: BlockReport, gone: Mapping[int, int]) -> None:
        """Add a block's report.

        `gone` maps tracks that a later decision dropped to the place of the
        operator that did: what operators after it saw of them does not count.
        """
        for place, seconds in report.seconds.items():
            self.ops[place].seconds += seconds
        for place, (rows, columns, stays) in report.measured.items():
            if gone:
                chosen = [i for i, row in enumerate(rows) if gone.get(row, sys.maxsize) > place]
                columns = [[column[i] for i in chosen] for column in columns]
                stays = [stays[i] for i in chosen]
            bound = next(b for b in self.bounds if b.place == place)
            assert isinstance(bound.op, Filter)
            self._merge(place, histograms(bound.op.stats, columns, stays))
        for place, found in report.counted.items():
            self._merge(place, found)

    def _merge(self, place: int, found: Mapping[str, Histogram]) -> None:
        for name, histogram in found.items():
            self.ops[place].stats.setdefault(name, Histogram()).merge(histogram)

    def summary(self) -> dict[str, Any]:
        """What `funnel.json` holds, times and memory apart; operators in the recipe's order."""
        rows = self.rows_in - self.bad.total()
        ops = []
        for bound in self.bounds:
            count = self.ops[bound.place]
            out = rows - count.reasons.total() + count.added
            ops.append(self._op_summary(bound, count, rows, out))
            rows = out
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "bad_lines": self.bad.total(),
            "bad_reasons": dict(sorted(self.bad.items())),
            "ops": ops,
        }

    def _op_summary(self, bound: Bound, count: OpCount, rows: int, out: int) -> dict[str, Any]:
        pairs = dict(zip(getattr(bound.op, "stats", ()), _bounds(bound.op), strict=False))
        return {
            "op": bound.name,
            "kind": kind_of(bound.op),
            "params": dict(bound.params),
            "rows_in": rows,
            "rows_out": out,
            "changed": count.changed,
            "dropped": count.reasons.total(),
            "added": count.added,
            "seconds": round(count.seconds, 4),
            "reasons": dict(sorted(count.reasons.items())),
            "stats": {
                name: found.summary([_finite(b) for b in pairs.get(name, (None, None))])
                for name, found in count.stats.items()
            },
        }

    def state(self) -> dict[str, Any]:
        """All of it, for a journal."""
        return {
            "rows": [self.rows_in, self.rows_out],
            "bad": dict(self.bad),
            "ops": [[place, count.state()] for place, count in self.ops.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a journal's state."""
        self.rows_in, self.rows_out = state["rows"]
        self.bad = Counter(state["bad"])
        self.ops = {place: OpCount.restored(found) for place, found in state["ops"]}


def _bounds(op: Any) -> Sequence[Any]:
    return op.bounds() if isinstance(op, Filter) else ()


def _finite(bound: float | None) -> float | None:
    """A bound worth drawing: None for those that only stand for "no bound"."""
    return None if bound is None or abs(bound) >= sys.maxsize else bound
