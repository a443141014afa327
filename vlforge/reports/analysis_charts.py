"""Charts of an analysis: distributions with their bounds, correlations, sizes of pictures.

Drawn as in `charts`: positions across are percentages, text keeps its size, no scripts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape

from vlforge.reports import numbers as written
from vlforge.reports.analysis_bounds import Interval
from vlforge.reports.analysis_columns import Numbers
from vlforge.reports.analysis_reading import PictureFacts, side_of
from vlforge.reports.charts import drawing, element

BINS = 40
HEIGHT, FLOOR, BOX = 132, 88, 104
"""Pixels: of the whole, down to the axis, down to the middle of the box."""
_TAIL = 0.005
_FEW = 5
"""Whole numbers over a shorter range are drawn as fractions are: they may be shares of 0 and 1."""
_LEAST = 0.4
"""Percent of the width that one bar has at least."""

_ALONE = Markup("""
text { font: 12px system-ui, sans-serif; fill: #59626d; }
.fill-kept { fill: #2e7d5b; } .fill-dropped { fill: #b23b3b; } .fill-plain { fill: #2f6fde; }
.out { fill: #fae7e7; } .axis, .whisker-plain { stroke: #59626d; }
.box { fill: #e9edf1; stroke: #59626d; } .median { stroke: #171a1e; stroke-width: 2; }
.bound { stroke: #171a1e; stroke-width: 1.5; stroke-dasharray: 4 3; }
.bound-label { fill: #171a1e; }
""")
"""The page's colours, for charts that stand outside it."""


@dataclass(frozen=True)
class Scale:
    """An axis: from where to where, and whether every step multiplies."""

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Percent from the left; outside values stand at the ends."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            return 100 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)

    def edges(self, bins: int) -> list[float]:
        """Ends of equally wide bins."""
        if self.is_log:
            ratio = self.high / self.low
            inner = [self.low * ratio ** (k / bins) for k in range(1, bins)]
        else:
            inner = [self.low + (self.high - self.low) * k / bins for k in range(1, bins)]
        return [self.low, *inner, self.high]

    def ticks(self) -> list[float]:
        """A few round numbers along the axis."""
        if self.is_log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def distribution(numbers: Numbers, interval: Interval, label: str) -> Markup:
    """A histogram with a box of the quartiles under it, and what the filter drops tinted.

    Where a few values lie far out, the axis ends before them, and the last bar holds them.
    """
    scale, edges = _axis(numbers, interval)
    first, last = interval.ranks(numbers)
    has_bounds = interval.pair != (None, None)
    ranks = [numbers.below(edge, inclusive=False) for edge in edges]
    ranks[0], ranks[-1] = 0, numbers.count
    marks = list(_tints(scale, interval)) if has_bounds else []
    top = max(b - a for a, b in pairwise(ranks))
    for (left, a), (right, b) in pairwise(zip(edges, ranks, strict=True)):
        between = max(0, min(b, last) - max(a, first))
        stays = b - a - between if interval.is_reversed else between
        ends = (scale.place(left), scale.place(right))
        marks += _bars(ends, (stays, b - a), top, _span_words(left, right), has_bounds)
    marks.append(element("line", class_="axis", x1=0, x2="100%", y1=FLOOR, y2=FLOOR))
    marks += _bound_lines(scale, interval)
    marks += _box(numbers, scale)
    marks += _tick_words(scale)
    return drawing(HEIGHT, label, marks)


def alone(chart: Markup, name: str) -> Markup:
    """A chart as a picture of its own, with its colours and its name."""
    return element(
        "svg",
        element("style", _ALONE),
        element("rect", width="100%", height="100%", fill="#ffffff"),
        element("text", escape(name), x=24, y=24, style="font-weight: 600"),
        element("svg", chart, x=24, y=36, width=592, height=HEIGHT, overflow="visible"),
        xmlns="http://www.w3.org/2000/svg",
        width=640,
        height=HEIGHT + 48,
    )


def drop_bar(only: int, alone: int, whole: int) -> Markup:
    """What one filter would drop: rows that only it drops, and rows that others drop too."""
    whole = max(whole, 1)
    own, shared = 100 * only / whole, 100 * (alone - only) / whole
    said = f"{written.count(alone)} rows, {written.count(only)} of them by this filter only"
    marks = [element("rect", class_="ground", x=0, y=4, width="100%", height=16)]
    if only:
        marks.append(_rect(0, max(own, _LEAST), 4, 16, "fill-dropped", said))
    if alone > only:
        marks.append(_rect(own, max(shared, _LEAST), 4, 16, "fill-shared", said))
    return drawing(24, said, marks)


def size_scatter(
    facts: PictureFacts, limits: Mapping[str, Interval], label: str
) -> tuple[Markup, bool]:
    """Width across, height up, both doubling; and whether each picture has its own dot.

    `limits` are intervals of `image_width`, `image_height` and `aspect_ratios`, drawn as lines.
    """
    each = len(facts.points) == sum(facts.grid.values())
    sides = [s for point in facts.points for s in point] if each else []
    if not each:
        cells = [c for pair in facts.grid for c in pair]
        sides = [side_of(min(cells)), side_of(max(cells) + 1)]
    scale = Scale(min(sides) / 1.5, max(sides) * 1.5, is_log=True)
    marks = list(_grid(scale))
    marks += _ratio_lines(scale, limits.get("aspect_ratios", Interval()))
    marks += _side_lines(scale, limits)
    marks += _dots(facts, scale) if each else _cells(facts, scale)
    svg = element("svg", *marks, class_="chart square", width="100%", role="img", aria_label=label)
    return svg, each


def _axis(numbers: Numbers, interval: Interval) -> tuple[Scale, list[float]]:
    """The axis and its bins: whole numbers get bins of whole width, long tails a log axis."""
    low, high = numbers.low, numbers.high
    inner_low, inner_high = numbers.quantile(_TAIL), numbers.quantile(1 - _TAIL)
    reach = inner_high - inner_low
    if inner_low > 0 and inner_high / inner_low > 40 and numbers.quantile(0.5) < inner_high / 8:
        scale = Scale(inner_low, inner_high, is_log=True)
        return scale, scale.edges(BINS)
    if reach > 0:
        low = inner_low if inner_low - low > reach else low
        high = inner_high if high - inner_high > reach else high
    near = [b for b in interval.pair if b is not None and low - reach / 2 < b < high + reach / 2]
    low, high = min([low, *near]), max([high, *near])
    is_whole = all(bool((run == np.floor(run)).all()) for run in numbers.runs)
    if is_whole and high - low >= _FEW:
        step = max(1, math.ceil((high - low + 1) / BINS))
        bins = math.ceil((math.floor(high) - math.floor(low) + 1) / step)
        edges = [math.floor(low) - 0.5 + step * k for k in range(bins + 1)]
        return Scale(edges[0], edges[-1]), edges
    if high == low:
        low, high = (low - abs(low) / 10, high + abs(high) / 10) if low else (0.0, 1.0)
    scale = Scale(low, high)
    return scale, scale.edges(min(BINS, max(12, round(2 * math.sqrt(numbers.count)))))


def _bars(
    ends: tuple[float, float], rows: tuple[int, int], top: int, where: str, has_bounds: bool
) -> Iterator[Markup]:
    """One bin's bar, what stays below what is dropped; `rows` are those that stay and all."""
    stays, every = rows
    x, width = ends[0], max(ends[1] - ends[0] - 0.25, _LEAST)
    title = f"{where}: {every:,}" + (f", {every - stays:,} dropped" if every > stays else "")
    tall, lower = (_height(n, top) for n in (every, stays))
    if stays:
        style = "fill-kept" if has_bounds else "fill-plain"
        yield _rect(x, width, FLOOR - lower, lower, style, title)
    if every > stays:
        yield _rect(x, width, FLOOR - tall, max(tall - lower, 1.5), "fill-dropped", title)


def _tints(scale: Scale, interval: Interval) -> Iterator[Markup]:
    low = scale.low if interval.low is None else interval.low
    high = scale.high if interval.high is None else interval.high
    spans = [(scale.low, low), (high, scale.high)]
    for a, b in [(low, high)] if interval.is_reversed else spans:
        width = scale.place(b) - scale.place(a)
        if b > a and width > 0:
            yield _rect(scale.place(a), width, 0, FLOOR, "out", "")


def _bound_lines(scale: Scale, interval: Interval) -> Iterator[Markup]:
    for end, sign in zip(interval.pair, "≥≤", strict=True):
        if end is None or not scale.low <= end <= scale.high:
            continue
        x = scale.place(end)
        side = "start" if x < 50 else "end"
        yield element("line", class_="bound", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=0, y2=FLOOR)
        yield element(
            "text",
            escape(f"{sign} {written.figures(end)}"),
            class_="bound-label",
            x=f"{x:.2f}%",
            dx=5 if side == "start" else -5,
            y=11,
            text_anchor=side,
        )


def _box(numbers: Numbers, scale: Scale) -> Iterator[Markup]:
    """A thin line over all values, a box over the middle half, a mark at the median."""
    q1, q2, q3 = (numbers.quantile(q) for q in (0.25, 0.5, 0.75))
    title = "quartiles " + ", ".join(written.figures(q) for q in (q1, q2, q3))
    x1, x3 = scale.place(q1), scale.place(q3)
    low, high = (f"{scale.place(v):.2f}%" for v in (numbers.low, numbers.high))
    yield element("line", class_="whisker-plain", x1=low, x2=high, y1=BOX, y2=BOX)
    yield _rect(x1, max(x3 - x1, _LEAST), BOX - 5, 10, "box", title)
    middle = f"{scale.place(q2):.2f}%"
    yield element("line", class_="median", x1=middle, x2=middle, y1=BOX - 6, y2=BOX + 6)


def _tick_words(scale: Scale) -> Iterator[Markup]:
    for value in scale.ticks():
        x = scale.place(value)
        anchor = "start" if x < 6 else "end" if x > 94 else "middle"
        at = f"{x:.2f}%"
        yield element("line", class_="axis", x1=at, x2=at, y1=FLOOR, y2=FLOOR + 4)
        yield element(
            "text", escape(written.figures(value)), x=at, y=HEIGHT - 6, text_anchor=anchor
        )


def _grid(scale: Scale) -> Iterator[Markup]:
    for value in _log_ticks(scale.low, scale.high):
        x = scale.place(value)
        across, down = f"{x:.2f}%", f"{100 - x:.2f}%"
        yield element("line", class_="grid", x1=across, x2=across, y1=0, y2="100%")
        yield element("line", class_="grid", x1=0, x2="100%", y1=down, y2=down)
        words = escape(written.figures(value, 4))
        yield element("text", words, x=across, y="100%", dy=16, text_anchor="middle")
        yield element("text", words, x=0, dx=-6, y=down, dy=4, text_anchor="end")


def _ratio_lines(scale: Scale, limits: Interval) -> Iterator[Markup]:
    """Diagonals of equal width / height: square ones and 3:1 both ways, or the recipe's bounds."""
    bounds = [r for r in limits.pair if r is not None and r > 0]
    whole = math.log(scale.high / scale.low)
    for ratio in (*(bounds or (1 / 3, 3)), 1.0):
        is_bound = ratio in bounds
        shift = 100 * math.log(ratio) / whole
        if abs(shift) >= 100:
            continue
        x1, x2 = max(0.0, shift), min(100.0, 100 + shift)
        yield element(
            "line",
            element("title", escape(f"width / height {written.figures(ratio)}")),
            class_="bound" if is_bound else "guide",
            x1=f"{x1:.2f}%",
            x2=f"{x2:.2f}%",
            y1=f"{100 - x1 + shift:.2f}%",
            y2=f"{100 - x2 + shift:.2f}%",
        )
        words = (
            "1 : 1" if ratio == 1 else written.figures(ratio) if is_bound else _ratio_words(ratio)
        )
        yield _ratio_label(words, (x2, 100 - x2 + shift), is_bound)


def _ratio_label(words: str, end: tuple[float, float], is_bound: bool) -> Markup:
    x, y = end
    return element(
        "text",
        escape(words),
        class_="bound-label" if is_bound else None,
        x=f"{x:.2f}%", y=f"{y:.2f}%", dx=-16, dy=9, text_anchor="end",
    )  # fmt: skip


def _ratio_words(ratio: float) -> str:
    return "3 : 1" if ratio > 1 else "1 : 3"


def _side_lines(scale: Scale, limits: Mapping[str, Interval]) -> Iterator[Markup]:
    for end in limits.get("image_width", Interval()).pair:
        if end is not None and scale.low < end < scale.high:
            x = f"{scale.place(end):.2f}%"
            yield element("line", class_="bound", x1=x, x2=x, y1=0, y2="100%")
    for end in limits.get("image_height", Interval()).pair:
        if end is not None and scale.low < end < scale.high:
            y = f"{100 - scale.place(end):.2f}%"
            yield element("line", class_="bound", x1=0, x2="100%", y1=y, y2=y)


def _dots(facts: PictureFacts, scale: Scale) -> Iterator[Markup]:
    for (width, height), count in Counter(facts.points).items():
        title = f"{width:,} × {height:,} pixels: {count:,}"
        yield element(
            "circle",
            element("title", escape(title)),
            class_="point",
            cx=f"{scale.place(width):.2f}%",
            cy=f"{100 - scale.place(height):.2f}%",
            r=f"{min(4 + math.sqrt(count - 1), 14):.3g}",
        )


def _cells(facts: PictureFacts, scale: Scale) -> Iterator[Markup]:
    most = max(facts.grid.values())
    for (i, j), count in facts.grid.items():
        left, right = scale.place(side_of(i)), scale.place(side_of(i + 1))
        under, over = scale.place(side_of(j)), scale.place(side_of(j + 1))
        title = f"{_span_words(side_of(i), side_of(i + 1))} wide, "
        title += f"{_span_words(side_of(j), side_of(j + 1))} high: {count:,}"
        strength = 0.18 + 0.82 * math.log1p(count) / math.log1p(most)
        yield element(
            "rect",
            element("title", escape(title)),
            class_="cell",
            x=f"{left:.2f}%", y=f"{100 - over:.2f}%",
            width=f"{right - left:.2f}%", height=f"{over - under:.2f}%",
            opacity=f"{strength:.2f}",
        )  # fmt: skip


def _rect(x: float, width: float, y: float, height: float, style: str, title: str) -> Markup:
    return element(
        "rect",
        element("title", escape(title)) if title else "",
        class_=style,
        x=f"{x:.2f}%",
        width=f"{max(width, 0):.2f}%",
        y=f"{y:.4g}",
        height=f"{height:.4g}",
    )


def _height(rows: int, top: int) -> float:
    """Pixels of a bar; one row among thousands still shows."""
    return max(1.5, (FLOOR - 16) * rows / top) if rows else 0.0


def _span_words(left: float, right: float) -> str:
    """A bin in words; one of whole numbers by these."""
    is_whole = left % 1 == 0.5 and right % 1 == 0.5
    if is_whole and right - left == 1:
        return written.count(left + 0.5)
    if is_whole:
        return f"{written.count(left + 0.5)} to {written.count(right - 0.5)}"
    return f"{written.figures(left)} to {written.figures(right)}"


def _round_step(least: float) -> float:
    """The next of 1, 2, 2.5, 5 and their tenfolds."""
    unit = 10.0 ** math.floor(math.log10(least))
    return next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= least * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    """At most six round numbers; only powers of ten where the axis is long."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    inside: Callable[[float], bool] = lambda v: low <= v <= high  # noqa: E731
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**k for k in range(first, last + 1) for f in factors]
        ticks = [tick for tick in ticks if inside(tick)]
        if len(ticks) <= 6:
            return ticks or [low]
    return ticks[:: math.ceil(len(ticks) / 6)]


def heat_rows(
    names: Sequence[str], matrix: Sequence[Sequence[float | None]]
) -> list[tuple[str, list[tuple[float | None, str, str]]]]:
    """Rows of a heat map: each cell's value, how it is written, and what hovering says."""
    return [
        (
            name,
            [
                (value, _short(value), f"{name} and {other}: {_long(value)}")
                for other, value in zip(names, row, strict=True)
            ],
        )
        for name, row in zip(names, matrix, strict=True)
    ]


def _short(value: float | None) -> str:
    """Two decimals without the leading zero."""
    if value is None or abs(value) < 0.005:
        return "" if value is None else "0"
    return f"{value:.2f}".replace("-", "−").replace("0.", ".")


def _long(value: float | None) -> str:
    return "does not vary" if value is None else f"{value:+.3f}".replace("-", "−")
