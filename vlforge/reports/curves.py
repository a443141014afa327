"""Curves over a stage's samples: losses, and below them what else was measured.

As `charts`: positions across are percentages or stretch, positions down are pixels, so that
text keeps its size at any width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup, escape

from vlforge.reports import numbers
from vlforge.reports.charts import drawing, element, text

LOSS_HEIGHT = 232
SMALL_HEIGHT = 88
_LABEL = 16
"""Pixels between two labels at the ends of lines."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One line: points (x, y) of the mean over runs, and thin ones behind it.

    `looks` are points drawn one by one, such as held-out losses. A line that is not named
    has no label at its end.
    """

    label: str
    tone: int
    mean: Points
    seeds: Sequence[Points] = ()
    looks: Points = ()
    is_named: bool = True


@dataclass(frozen=True)
class Event:
    """Something that happened at `x`."""

    x: float
    kind: Literal["spike", "resume"]
    title: str


def loss_chart(
    curves: Sequence[Curve],
    label: str,
    events: Sequence[Event] = (),
    *,
    height: int = LOSS_HEIGHT,
    words: Callable[[float | None], str] = numbers.figures,
    right: float = 0.0,
    top: float = 0.0,
) -> Markup:
    """Values against samples seen, all curves on one axis that starts at zero.

    Thick lines are means over runs, thin ones single runs or single steps; labels stand at
    the line's end. What lies above the axis is drawn at its top.

    Args:
        right, top: where the axes end; 0 is where the curves do.
    """
    points = [p for c in curves for line in (c.mean, *c.seeds, c.looks) for p in line]
    if not points:
        return Markup("")
    right = right or max(p[0] for p in points) or 1
    top = top or _nice(_highest(curves))
    floor = height - 24
    lines = [_path(s, right, top, f"tone-{c.tone} thin") for c in curves for s in c.seeds]
    lines += [_path(c.mean, right, top, f"tone-{c.tone} curve", c.label) for c in curves if c.mean]
    inner = element(
        "svg", *lines, y=8, width="100%", height=floor - 8, viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
    )  # fmt: skip
    marks = [_look(p, c, right, top, floor, words) for c in curves for p in c.looks]
    steps = 4 if height > 120 else 2
    ticks = [top * k / steps for k in range(steps + 1)]
    feet = [
        text("0%", height - 6, "0", "start"),
        text("100%", height - 6, f"{numbers.count(right)} samples", "end"),
    ]
    left = [text("100%", _down(t, top, floor) + 4, words(t), "end") for t in ticks]
    names = [
        text(0, y + 4, said, "start", f"tone-{tone} end")
        for y, said, tone in _ends(curves, top, floor, words)
    ]
    drawn = drawing(
        height,
        label,
        [*_grid(ticks, top, floor), inner, *_happened(events, right, floor), *marks, *feet],
    )
    side = {"height": height, "width": "100%", "aria_hidden": "true"}
    return Markup('<div class="loss">{}{}{}</div>').format(
        element("svg", *left, class_="chart", **side),
        drawn,
        element("svg", *names, class_="chart", **side),
    )


def _highest(curves: Sequence[Curve]) -> float:
    """The top of the axis: one spike among many steps does not flatten the rest."""
    sure = [y for c in curves for line in (c.mean, c.looks) for _, y in line]
    steps = sorted(y for c in curves for line in c.seeds for _, y in line)
    usual = steps[min(len(steps) - 1, math.ceil(0.98 * len(steps)))] if steps else 0.0
    return max([usual, *sure])


def _grid(ticks: Sequence[float], top: float, floor: float) -> list[Markup]:
    return [
        element("line", class_="axis" if k == 0 else "grid", x1=0, x2="100%", y1=y, y2=y)
        for k, y in enumerate(_down(t, top, floor) for t in ticks)
    ]


def _happened(events: Sequence[Event], right: float, floor: float) -> list[Markup]:
    """Lines for resumes; triangles on the axis' top for spikes."""
    marks = []
    for event in events:
        x = f"{100 * min(1.0, event.x / right):.2f}%"
        title = element("title", escape(event.title))
        marks.append(element("line", title, class_=f"at-{event.kind}", x1=x, x2=x, y1=8, y2=floor))
        if event.kind == "spike":
            arrow = element("path", title, class_="at-spike-sign", d="M-5,0 L5,0 L0,8 Z")
            marks.append(element("svg", arrow, x=x, y=0, overflow="visible"))
    return marks


def _look(
    point: tuple[float, float],
    curve: Curve,
    right: float,
    top: float,
    floor: float,
    words: Callable[[float | None], str],
) -> Markup:
    x, y = point
    title = f"{curve.label}: {words(y)} at {numbers.count(x)} samples"
    return element(
        "circle",
        element("title", escape(title)),
        class_=f"tone-{curve.tone} ring",
        cx=f"{100 * x / right:.2f}%",
        cy=f"{_down(y, top, floor):.4g}",
        r=3,
    )


def _ends(
    curves: Sequence[Curve], top: float, floor: float, words: Callable[[float | None], str]
) -> list[tuple[float, str, int]]:
    """Labels at line ends, pushed apart and kept inside the chart."""
    found = []
    for curve in (c for c in curves if c.is_named):
        last = (curve.mean or curve.looks)[-1][1]
        said = f"{curve.label} {words(last)}".strip()
        found.append((_down(last, top, floor), said, curve.tone))
    found.sort(key=lambda end: end[0])
    ys: list[float] = []
    for y, _, _ in found:
        ys.append(max(y, ys[-1] + _LABEL) if ys else y)
    limit = floor
    for k in reversed(range(len(ys))):
        ys[k] = min(ys[k], limit)
        limit = ys[k] - _LABEL
    return [(y, said, tone) for y, (_, said, tone) in zip(ys, found, strict=True)]


def smoothed(points: Points, share: float = 0.06) -> list[tuple[float, float]]:
    """The mean of the middle half of the points around each, `share` of them all.

    Fewer near the ends; the middle half, since one wild step is not what a line is about.
    """
    reach = max(1, round(len(points) * share / 2))
    found = []
    for k, (x, _) in enumerate(points):
        near = min(reach, k, len(points) - 1 - k)
        some = sorted(y for _, y in points[k - near : k + near + 1])
        middle = some[len(some) // 4 : len(some) - len(some) // 4]
        found.append((x, math.fsum(middle) / len(middle)))
    return found


def thinned(points: Points, most: int) -> tuple[list[tuple[float, float]], int]:
    """At most so many points, each the mean of a run of points; and how many those are."""
    step = max(1, math.ceil(len(points) / most))
    pieces = [points[k : k + step] for k in range(0, len(points), step)]
    return [(p[-1][0], math.fsum(y for _, y in p) / len(p)) for p in pieces], step


def is_flat(points: Points) -> bool:
    """Whether all values are the same."""
    return all(a[1] == b[1] for a, b in pairwise(points))


def _nice(value: float) -> float:
    """The next round number at or above `value`, so that quarters of it read well."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    unit = 10 ** math.floor(math.log10(value))
    return next(
        unit * step for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if value <= unit * step
    )


def _down(value: float, top: float, floor: float) -> float:
    return 8 + (floor - 8) * (1 - min(value, top) / top)


def _path(points: Points, right: float, top: float, style: str, title: str = "") -> Markup:
    steps = " ".join(
        f"{1000 * x / right:.0f},{1000 * (1 - min(y, top) / top):.0f}" for x, y in points
    )
    return element(
        "polyline", element("title", escape(title)) if title else "", class_=style, points=steps
    )
