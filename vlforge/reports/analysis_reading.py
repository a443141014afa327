"""Reads what an analysis measured, row by row, into counts, columns and a choice of examples."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlforge.data.json_lines import decode
from vlforge.ops.base import Filter
from vlforge.ops.measured import FILES, HASHES, PICTURES, TEXT, TOKENS, VERDICT, said
from vlforge.reports.analysis_columns import (
    Column,
    Correlation,
    Labels,
    Numbers,
    Repeated,
    Repeats,
)
from vlforge.reports.analysis_plan import AnalysisPlan
from vlforge.reports.run_files import read_lines, read_mapping
from vlforge.types import ProgressFn, no_progress

AT_ONCE = 2000
"""Rows between two looks at columns, extremes and progress."""
MOST_POINTS = 600
"""Pictures up to which a scatter shows each of them."""
MOST_HASHES = 200_000
"""Distinct picture hashes up to which near ones are looked for."""
NEAR_BITS = 4
_EXAMPLES, _BAD = 24, 8
_STEPS = 4
"""Cells of the picture grid per doubling of a side."""


@dataclass
class FilterCount:
    """What one filter would do: rows it drops at all, rows that no other filter drops."""

    only: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def alone(self) -> int:
        """Rows that it would drop if it were the only filter."""
        return self.reasons.total()


@dataclass
class PictureFacts:
    """Sizes of all pictures: each of a few, and on a grid of `_STEPS` cells per doubling."""

    number: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    per_row: Counter[int] = field(default_factory=Counter)
    mismatched: int = 0
    """Rows with picture tokens, but not as many as pictures."""
    grid: Counter[tuple[int, int]] = field(default_factory=Counter)
    points: list[tuple[int, int]] = field(default_factory=list)

    def add(self, found: Sequence[Any], tokens: int) -> None:
        """Take the pictures of one row: [width, height] or the reason why there is none."""
        self.number += len(found)
        self.per_row[len(found)] += 1
        self.mismatched += bool(tokens) and tokens != len(found)
        for size in found:
            if isinstance(size, str):
                self.faults[size] += 1
                continue
            width, height = size
            self.grid[cell_of(width), cell_of(height)] += 1
            if len(self.points) < MOST_POINTS:
                self.points.append((width, height))


@dataclass(frozen=True)
class Example:
    """A row chosen for the page: its place among the usable rows, and why it was chosen."""

    place: int
    stats: Mapping[str, Any]
    op: int | None = None
    """The place of the filter that would drop it."""
    drop: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Findings:
    """All that was found in a dataset."""

    rows_in: int
    rows: int = 0
    """Rows that could be read."""
    bad: Counter[str] = field(default_factory=Counter)
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    filters: dict[int, FilterCount] = field(default_factory=dict)
    numbers: dict[str, Numbers] = field(default_factory=dict)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    correlated: tuple[str, ...] = ()
    correlation: list[list[float | None]] = field(default_factory=list)
    pictures: PictureFacts = field(default_factory=PictureFacts)
    languages: Counter[str] = field(default_factory=Counter)
    texts: Repeated = field(default_factory=Repeated)
    files: Repeated = field(default_factory=Repeated)
    looks: Repeated = field(default_factory=Repeated)
    """Rows with a picture that looks like one of an earlier row."""
    looks_are_near: bool = True
    kept_examples: list[Example] = field(default_factory=list)
    dropped_examples: list[Example] = field(default_factory=list)
    lowest: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    highest: dict[str, list[tuple[float, int]]] = field(default_factory=dict)


def read_findings(plan: AnalysisPlan, work: Path, progress: ProgressFn = no_progress) -> Findings:
    """What the `process` stage at `work`, run with `plan.config`, has measured.

    Leaves files with names that start with `column-` and `digest-` in `work`.
    """
    funnel = read_mapping(work / "funnel.json")
    findings = Findings(int(funnel.get("rows_in", 0)))
    findings.bad.update(funnel.get("bad_reasons") or {})
    for op in funnel.get("ops") or ():
        findings.bad.update({f"{op['op']}: {r}": n for r, n in (op.get("reasons") or {}).items()})
    findings.bad_rows = _some_of_each(read_lines(work / "dropped.jsonl"))
    reader = _Reader(plan, findings, work)
    total = int(funnel.get("rows_out", 0))
    with (work / "stats.jsonl").open("rb") as lines:
        for place, line in enumerate(lines):
            reader.take(place, decode(line)["stats"])
            if place % AT_ONCE == 0:
                progress(place, total, "")
    reader.finish()
    progress(total, total, "")
    return findings


def _some_of_each(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first records of every reason, in their order."""
    seen: Counter[str] = Counter()
    chosen = []
    for record in records:
        reason = str(record.get("reason"))
        seen[reason] += 1
        if seen[reason] <= _BAD:
            chosen.append(record)
    return chosen


def rows_at(data: Path, places: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Some rows of a jsonl file by their places from 0; only these are parsed."""
    wanted = sorted(set(places))
    found: dict[int, dict[str, Any]] = {}
    with data.open("rb") as lines:
        before = -1
        for place in wanted:
            found[place] = decode(next(itertools.islice(lines, place - before - 1, None)))
            before = place
    return found


def cell_of(side: int) -> int:
    """The cell of the picture grid that a side of so many pixels falls into."""
    return math.floor(_STEPS * math.log2(max(side, 1)))


def side_of(cell: int) -> float:
    """The least pixels of a cell."""
    return 2.0 ** (cell / _STEPS)


class _Reader:
    """Everything that is collected while the rows stream by."""

    def __init__(self, plan: AnalysisPlan, findings: Findings, work: Path):
        self.plan, self.findings, self.work = plan, findings, work
        self.stats = list(plan.stats)
        self.ops: dict[int, Any] = {bound.place: bound.op for bound in plan.filters}
        findings.filters = {place: FilterCount() for place in plan.order}
        self._rows: list[Mapping[str, Any]] = []
        self._asked = [(at, f"{VERDICT}{at}") for at in plan.order if plan.is_recipe]
        self._columns: dict[str, Column] = {}
        self._labels: dict[str, Labels] = {}
        self._correlation = Correlation(self.stats)
        self._texts = Repeats(work, "digest-text")
        self._files = Repeats(work, "digest-files")
        self._looks = _Looks(work)
        self._kept = _Sample(_EXAMPLES, "kept")
        self._lost: dict[tuple[int, str], _Sample] = {}
        """By filter and reason, so that rare reasons are seen too."""

    def take(self, place: int, stats: Mapping[str, Any]) -> None:
        """One row's statistics."""
        found = self.findings
        found.rows += 1
        self._rows.append(stats)
        self._judge(place, stats)
        self._texts.add(stats[TEXT], place)
        pictures = stats[PICTURES]
        found.pictures.add(pictures, stats[TOKENS])
        if pictures:
            self._files.add(stats[FILES], place)
        if HASHES in stats:
            self._looks.add(stats[HASHES], place)
        language = stats.get("lang")
        if isinstance(language, str):
            found.languages[language] += 1
        if len(self._rows) == AT_ONCE:
            self._flush()

    def finish(self) -> None:
        """Close all columns."""
        self._flush()
        found = self.findings
        found.numbers = {n: c.finish() for n in self.stats if (c := self._columns.get(n))}
        found.labels = {n: c.counts for n in self.stats if (c := self._labels.get(n))}
        self._correlate()
        found.texts, found.files = self._texts.finish(), self._files.finish()
        found.looks, found.looks_are_near = self._looks.finish()
        found.kept_examples = self._kept.chosen
        found.dropped_examples = list(self._spread())

    def _correlate(self) -> None:
        matrix = self._correlation.finish()
        keep = [at for at, name in enumerate(self.stats) if name in self.findings.numbers]
        self.findings.correlated = tuple(self.stats[at] for at in keep)
        self.findings.correlation = [[matrix[i][j] for j in keep] for i in keep] if matrix else []

    def _flush(self) -> None:
        """Take the waiting rows statistic by statistic."""
        if not self._rows:
            return
        first = self.findings.rows - len(self._rows)
        table = np.full((len(self._rows), len(self.stats)), np.nan)
        for at, name in enumerate(self.stats):
            values = [row.get(name) for row in self._rows]
            numbers, places, words = _sorted_out(values)
            if words:
                self._labels.setdefault(name, Labels()).add(words)
            if not numbers:
                continue
            found, owners = np.array(numbers, np.float64), np.array(places)
            counts = np.bincount(owners, minlength=len(values))
            with np.errstate(invalid="ignore"):
                table[:, at] = np.bincount(owners, found, len(values)) / counts
            self._add(name, found, owners + first)
        self._correlation.add(table)
        self._rows = []

    def _add(self, name: str, values: Any, places: Any) -> None:
        """Some numbers of one statistic, and the rows they belong to."""
        if name not in self._columns:
            self._columns[name] = Column(self.work / f"column-{len(self._columns)}")
        self._columns[name].add(values)
        usable = np.isfinite(values)
        values, places = values[usable], places[usable]
        for ends, sign in ((self.findings.lowest, 1), (self.findings.highest, -1)):
            chosen = np.argsort(sign * values, kind="stable")[:2]
            pairs = [(float(values[k]), int(places[k])) for k in chosen]
            ends[name] = sorted([*ends.get(name, []), *pairs], key=lambda p: (sign * p[0], p[1]))[
                :2
            ]

    def _judge(self, place: int, stats: Mapping[str, Any]) -> None:
        """Count what each filter says of the row, and choose examples."""
        found, against = self.findings, []
        for at, key in self._asked:
            verdict = stats[key] if key in stats else _verdict(self.ops[at], stats)
            if verdict is not True:
                against.append((at, verdict))
                found.filters[at].reasons[str(verdict["reason"])] += 1
        if not against:
            found.kept += 1
            self._kept.offer(Example(place, stats))
            return
        first, drop = against[0]
        found.filters[first].only += len(against) == 1
        why = (first, drop["reason"])
        if why not in self._lost:
            self._lost[why] = _Sample(_EXAMPLES, str(why))
        self._lost[why].offer(Example(place, stats, first, drop))

    def _spread(self) -> Iterator[Example]:
        """Dropped examples, each filter's and reason's turn at a time."""
        turns = itertools.zip_longest(*(sample.chosen for sample in self._lost.values()))
        several = (example for turn in turns for example in turn if example is not None)
        chosen = itertools.islice(several, _EXAMPLES)
        yield from sorted(chosen, key=lambda e: (self.plan.order.index(e.op or 0), e.place))


def _sorted_out(values: Sequence[Any]) -> tuple[Sequence[float], Sequence[int], list[str]]:
    """The numbers among some rows' values, the row of each, and the words."""
    if set(map(type, values)) <= {int, float}:
        return values, range(len(values)), []
    numbers: list[float] = []
    places: list[int] = []
    words: list[str] = []
    for place, value in enumerate(values):
        for single in value if isinstance(value, list) else (value,):
            if isinstance(single, int | float):
                numbers.append(single)
                places.append(place)
            elif isinstance(single, str):
                words.append(single)
    return numbers, places, words


def _verdict(op: Filter, stats: Mapping[str, Any]) -> Any:
    """The filter's verdict on statistics that came with the row and so were not measured."""
    values = [stats.get(name) for name in op.stats]
    return op.keep_all([[value] for value in values])[0] or said(op.fault("", values))


class _Sample:
    """Some of many, each as likely as any other, in their order (Vitter's algorithm R)."""

    def __init__(self, most: int, name: str):
        self._most, self._seen = most, 0
        self._random = random.Random(name)
        self._chosen: list[Example] = []

    def offer(self, example: Example) -> None:
        """Take one, perhaps in place of another."""
        self._seen += 1
        if len(self._chosen) < self._most:
            self._chosen.append(example)
            return
        at = self._random.randrange(self._seen)
        if at < self._most:
            self._chosen[at] = example

    @property
    def chosen(self) -> list[Example]:
        """Those chosen so far, in the order of the rows."""
        return sorted(self._chosen, key=lambda example: example.place)


class _Looks:
    """Rows with pictures that look like earlier ones: hashes equal, or near while they are few."""

    def __init__(self, work: Path):
        from vlforge.ops.dedup.images import NearMatcher

        self._near = NearMatcher(NEAR_BITS)
        self._first: dict[str, str] = {}
        self._equal = Repeats(work, "digest-look")
        self._is_near = True

    def add(self, hashes: Sequence[str], place: int) -> None:
        """Take the hashes of one row; "" stands for a picture that has none."""
        for leader in dict.fromkeys(map(self._leader, filter(None, hashes))):
            self._equal.add(leader, place)

    def finish(self) -> tuple[Repeated, bool]:
        """What repeats, and whether near pictures were found too."""
        return self._equal.finish(), self._is_near

    def _leader(self, found: str) -> str:
        """The first hash that this one is near to; itself where there is none."""
        leader = self._first.get(found)
        if leader is not None or not self._is_near:
            return leader or found
        key = b"\x01" + bytes.fromhex(found)
        leader = self._near.find(key)
        if leader is None:
            self._near.add(key, found)
            leader = found
        self._first[found] = leader
        self._is_near = len(self._first) < MOST_HASHES
        return leader
