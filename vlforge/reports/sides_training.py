"""Training of several runs on one axis, and what each had reached at the same samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vlforge.reports import numbers
from vlforge.reports.curves import SMALL_HEIGHT, Curve, loss_chart, smoothed, thinned
from vlforge.reports.run_files import shorten
from vlforge.reports.run_sides import Series, alike, by_value, joint_label, stages_of
from vlforge.reports.training_curves import CURVE_POINTS, Line, Trained, read_trained
from vlforge.reports.training_view import TRAINING

_LABEL = 11
_NEAR = 0.03
"""Share of the samples by which a look may lie before them and still be called theirs."""


@dataclass(frozen=True)
class StageCurves:
    """One stage's losses of all series; `small` are (title, chart) below."""

    stage: str
    chart: Markup
    signs: str
    small: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True)
class EqualRow:
    """What was measured at `samples` of a stage: a value per series, "" where there is none."""

    stage: str
    samples: float
    what: str
    values: tuple[str, ...]


@dataclass
class _Group:
    """Series that share a stage's work, and what its files say."""

    label: str
    tone: int
    series: Sequence[Series]
    trained: Sequence[Trained]

    @property
    def short(self) -> str:
        """What fits beside a chart."""
        return shorten(self.label, _LABEL)

    @property
    def loss(self) -> Line:
        """Over seeds the mean; of one run its smoothed steps."""
        lines = [one.losses for one in self.trained if one.losses]
        if len(lines) > 1:
            return mean_line([thinned(line, CURVE_POINTS)[0] for line in lines])
        return smoothed(thinned(lines[0], CURVE_POINTS)[0]) if lines else []

    @property
    def looks(self) -> Line:
        """Held-out losses, means over seeds."""
        lines = [one.looks for one in self.trained if one.looks]
        return mean_line(lines) if lines else []

    def asked(self, name: str) -> Line:
        """A benchmark's scores while training, means over seeds."""
        lines = [one.scores[name] for one in self.trained if one.scores.get(name)]
        return mean_line(lines) if lines else []

    @property
    def samples(self) -> float:
        """How far its least trained run came."""
        ends = (line[-1][0] for one in self.trained for line in (one.losses or one.looks,) if line)
        return min(ends, default=0.0)


def view_curves(series: Sequence[Series]) -> list[StageCurves]:
    """A chart per stage that trains anywhere."""
    found = []
    for stage in stages_of(series, *TRAINING):
        groups = [g for g in _groups(series, stage) if g.loss or g.looks]
        if groups:
            found.append(_curves(stage, groups))
    return found


def view_equal(series: Sequence[Series]) -> list[EqualRow]:
    """Losses and scores at the samples that all series of a stage have seen."""
    rows: list[EqualRow] = []
    for stage in stages_of(series, *TRAINING):
        groups = [g for g in _groups(series, stage) if g.samples]
        if len(groups) < 2:
            continue
        common = min(group.samples for group in groups)
        lines = {"loss": {g.label: g.loss for g in groups}}
        lines["held-out loss"] = {g.label: g.looks for g in groups}
        names = dict.fromkeys(n for g in groups for one in g.trained for n in one.scores)
        lines |= {name: {g.label: g.asked(name) for g in groups} for name in names}
        for what, by_group in lines.items():
            value = _between if what == "loss" else _at
            told = {label: value(line, common) for label, line in by_group.items()}
            of_series = {one.label: told[g.label] for g in groups for one in g.series}
            values = tuple(of_series.get(one.label, "") for one in series)
            is_told = sum(map(bool, values)) > 1
            rows += [EqualRow(stage, common, what, values)] if is_told else []
    return rows


def mean_line(lines: Sequence[Sequence[tuple[float, float]]]) -> Line:
    """Point by point over seeds, as far as the shortest goes."""
    return [
        (points[0][0], math.fsum(y for _, y in points) / len(points))
        for points in zip(*lines, strict=False)
    ]


def _groups(series: Sequence[Series], stage: str) -> list[_Group]:
    return [
        _Group(joint_label(some), some[0].tone, some, [read_trained(node) for node in nodes])
        for some, nodes in alike(series, stage, *TRAINING)
    ]


def _curves(stage: str, groups: Sequence[_Group]) -> StageCurves:
    curves = [
        Curve(g.short, g.tone, g.loss, [thinned(one.losses, CURVE_POINTS)[0] for one in g.trained])
        for g in groups
        if g.loss
    ]
    curves += [
        Curve(f"{g.label} held-out", g.tone, (), [g.looks], g.looks, is_named=not g.loss)
        for g in groups
        if g.looks
    ]
    said = ", ".join(f"{c.label} {numbers.figures((c.mean or c.looks)[-1][1])}" for c in curves)
    names = dict.fromkeys(n for g in groups for one in g.trained for n in one.scores)
    small = tuple((f"{name}, asked while training", _small(name, groups)) for name in names)
    signs = "○ held-out rows" if any(g.looks for g in groups) else ""
    return StageCurves(stage, loss_chart(curves, f"loss of {stage}: {said}"), signs, small)


def _small(name: str, groups: Sequence[_Group]) -> Markup:
    curves = [Curve(g.short, g.tone, line, (), line) for g in groups if (line := g.asked(name))]
    return loss_chart(curves, f"{name} while training", height=SMALL_HEIGHT, top=1.0)


def _between(line: Sequence[tuple[float, float]], samples: float) -> str:
    """The value of a curve at `samples`, on the line between its points."""
    after = next((k for k, point in enumerate(line) if point[0] >= samples * (1 - 1e-9)), None)
    if after is None:
        return _at(line, samples)
    (x0, y0), (x1, y1) = line[max(0, after - 1)], line[after]
    share = (samples - x0) / (x1 - x0) if x1 > x0 else 1.0
    return numbers.figures(y0 + min(1.0, max(0.0, share)) * (y1 - y0))


def _at(line: Sequence[tuple[float, float]], samples: float) -> str:
    """The last look at or before `samples`, with its own place where that is well before."""
    before = [point for point in line if point[0] <= samples * (1 + 1e-9)]
    if not before:
        return ""
    x, y = before[-1]
    late = f" at {numbers.count(x)}" if x < samples * (1 - _NEAR) else ""
    return f"{numbers.figures(y)}{late}"


def differing_budgets(
    series: Sequence[Series], found: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Stages of which not all series that have them saw the same samples, in words."""
    stages = dict.fromkeys(stage for one in found.values() for stage in one)
    words = []
    for stage in stages:
        seen = {label: one[stage] for label, one in found.items() if stage in one}
        if len(set(seen.values())) > 1:
            words.append(f"{stage}: {by_value(series, seen)}")
    return words
