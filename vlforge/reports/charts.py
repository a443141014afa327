"""Charts as small SVG, drawn so that they stay legible at any width.

Positions across are percentages and positions down are pixels: a chart stretches with its
column while its text keeps its size, in light and dark (colours are classes of the page's
style), without JavaScript. Every mark has a `<title>` with its exact value.

All functions return Markup; everything that came from data is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from vlforge.reports import numbers

HISTOGRAM_HEIGHT = 104
_TRACK = 28


def element(name: str, *children: str, **attributes: Any) -> Markup:
    """One SVG element; `_` in attribute names is `-`, a trailing one is dropped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inner)


def drawing(height: int, label: str, marks: Iterable[str], style: str = "chart") -> Markup:
    """An SVG as wide as its column; `label` is read out by screen readers."""
    return element(
        "svg", *marks, class_=style, width="100%", height=height, role="img", aria_label=label
    )


def funnel_bar(kept: float, changed: float, dropped: float, whole: float) -> Markup:
    """What one operator did with its rows, against the rows that came in at the top."""
    whole = max(whole, 1)
    parts = (
        ("kept", kept - changed, "passed unchanged"),
        ("changed", changed, "changed"),
        ("dropped", dropped, "dropped"),
    )
    marks, at = [element("rect", class_="ground", x=0, y=4, width="100%", height=16)], 0.0
    for name, rows, words in parts:
        if rows <= 0:
            continue
        share = 100 * rows / whole
        title = f"{numbers.count(rows)} {words} ({numbers.percent(rows, whole)} of all rows)"
        marks.append(_bar(at, max(share, 0.35), 4, 16, f"fill-{name}", title))
        at += share
    said = ", ".join(f"{numbers.count(rows)} {words}" for _, rows, words in parts)
    return drawing(24, said, marks)


def score_track(
    mean: float,
    interval: Sequence[float] | None,
    per_seed: Mapping[str, float],
    tone: int,
    label: str,
) -> Markup:
    """A score between 0 and 1: bar to the mean, thin interval, a ring per seed."""
    middle = _TRACK / 2
    marks = [
        element("line", class_="grid", x1=f"{x}%", x2=f"{x}%", y1=0, y2=_TRACK)
        for x in (0, 25, 50, 75, 100)
    ]
    marks.append(_bar(0, 100 * mean, middle - 5, 10, f"tone-{tone} soft", f"{label}: {mean:.4f}"))
    if interval is not None:
        low, high = (f"{100 * min(1.0, max(0.0, v)):.2f}%" for v in interval)
        title = f"{label}: 95 % interval {interval[0]:.4f} to {interval[1]:.4f}"
        marks.append(_line(low, high, middle, f"tone-{tone} whisker", title))
        marks += [
            element("line", class_=f"tone-{tone} whisker", x1=x, x2=x, y1=middle - 5, y2=middle + 5)
            for x in (low, high)
        ]
    if len(per_seed) > 1:
        marks += [
            _dot(value, middle, 3, f"tone-{tone} ring", f"seed {seed}: {value:.4f}")
            for seed, value in per_seed.items()
        ]
    marks.append(_dot(mean, middle, 5, f"tone-{tone} dot", f"{label}: mean {mean:.4f}"))
    return drawing(_TRACK, f"{label}: {mean:.3f}", marks, "chart track")


def share_axis() -> Markup:
    """The axis under score tracks: 0 to 1."""
    places = ((0, "0", "start"), (25, ".25", "middle"), (50, ".5", "middle"))
    places += ((75, ".75", "middle"), (100, "1", "end"))
    marks = [text(f"{x}%", 12, words, anchor) for x, words, anchor in places]
    return element("svg", *marks, class_="chart track", width="100%", height=16, aria_hidden="true")


def difference_track(
    mean: float, interval: Sequence[float] | None, tone: int, reach: float
) -> Markup:
    """A paired difference around zero; `reach` is the largest value the axis shows."""
    place = lambda v: 50 + 50 * max(-1.0, min(1.0, v / reach))  # noqa: E731
    middle = _TRACK / 2
    marks = [element("line", class_="axis", x1="50%", x2="50%", y1=0, y2=_TRACK)]
    if interval is not None:
        title = f"95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}"
        low, high = (f"{place(v):.2f}%" for v in interval)
        marks.append(_line(low, high, middle, f"tone-{tone} whisker", title))
    marks.append(_dot(place(mean) / 100, middle, 5, f"tone-{tone} dot", f"{mean:+.4f}"))
    return drawing(_TRACK, f"difference {mean:+.3f}", marks, "chart track")


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    kept: Sequence[int] | None = None,
    bounds: Sequence[float | None] = (None, None),
    label: str = "",
    is_reversed: bool = False,
) -> Markup:
    """Counts per bin, kept and dropped apart, with the recipe's bounds drawn in.

    Values outside the bounds are tinted as dropped; inside them if `is_reversed`.

    A bound outside the bins stretches the axis to reach it, unless it lies so far off that the
    bars would vanish; then `bound_words` has to say it.
    """
    low, high = _span(edges, bounds)
    kept = counts if kept is None else kept
    top = max([1, *counts])
    floor, width = HISTOGRAM_HEIGHT - 20, high - low
    place = lambda v: 100 * (v - low) / width  # noqa: E731
    marks = _tints(bounds, is_reversed, low, high, place, floor)
    for left, right, total, stays in zip(edges, edges[1:], counts, kept, strict=False):
        x, w = place(left), max(place(right) - place(left) - 0.25, 0.3)
        title = f"{numbers.figures(left)} to {numbers.figures(right)}: {total:,} rows"
        title += f", {total - stays:,} dropped" if total > stays else ""
        tall, lower = (_height(n, top, floor - 18) for n in (total, stays))
        if stays:
            marks.append(_bar(x, w, floor - lower, lower, "fill-kept", title))
        if total > stays:
            marks.append(_bar(x, w, floor - tall, tall - lower, "fill-dropped", title))
    marks.append(element("line", class_="axis", x1=0, x2="100%", y1=floor, y2=floor))
    marks += _bound_lines(bounds, low, high, place, floor)
    marks.append(text("0%", HISTOGRAM_HEIGHT - 6, numbers.figures(low), "start"))
    marks.append(text("100%", HISTOGRAM_HEIGHT - 6, numbers.figures(high), "end"))
    return drawing(HISTOGRAM_HEIGHT, label or "histogram", marks)


def bound_words(bounds: Sequence[float | None], is_reversed: bool = False) -> str:
    """The bounds in words, for those who cannot see the lines and for bounds far away."""
    low, high = (_drawable(b) for b in (*bounds, None, None)[:2])
    if low is None and high is None:
        return "no bound"
    if is_reversed:
        low, high = (numbers.figures(b) if b is not None else "any" for b in (low, high))
        return f"drops {low} to {high}"
    if high is None:
        return f"keeps ≥ {numbers.figures(low)}"
    if low is None:
        return f"keeps ≤ {numbers.figures(high)}"
    return f"keeps {numbers.figures(low)} to {numbers.figures(high)}"


def share_bars(values: Sequence[tuple[str, float, str]], style: str) -> Markup:
    """One thin bar per (label, share 0..1, words): the labels stand beside the bars in HTML."""
    rows = Markup("").join(
        Markup(
            '<div class="bar-row"><span dir="auto">{}</span>{}<span class="num">{}</span></div>'
        ).format(
            label,
            drawing(
                12,
                f"{label}: {words}",
                [
                    element("rect", class_="ground", x=0, y=2, width="100%", height=8),
                    _bar(0, max(0.0, min(100.0, 100 * share)), 2, 8, style, words),
                ],
            ),
            words,
        )
        for label, share, words in values
    )
    return Markup('<div class="bars">{}</div>').format(rows)


def _bar(x: float, width: float, y: float, height: float, style: str, title: str) -> Markup:
    return element(
        "rect",
        element("title", escape(title)),
        class_=style,
        x=f"{x:.2f}%",
        width=f"{max(width, 0):.2f}%",
        y=f"{y:.4g}",
        height=f"{height:.4g}",
    )


def _line(x1: str, x2: str, y: float, style: str, title: str) -> Markup:
    return element("line", element("title", escape(title)), class_=style, x1=x1, x2=x2, y1=y, y2=y)


def _dot(share: float, y: float, radius: int, style: str, title: str) -> Markup:
    return element(
        "circle",
        element("title", escape(title)),
        class_=style,
        cx=f"{100 * share:.2f}%",
        cy=y,
        r=radius,
    )


def text(x: Any, y: float, words: str, anchor: str, style: str = "") -> Markup:
    """Words at a place; `anchor` is start, middle or end."""
    return element(
        "text", escape(words), class_=style or None, x=x, y=f"{y:.4g}", text_anchor=anchor
    )


def _drawable(bound: Any) -> float | None:
    """A bound worth drawing: finite, and not a stand-in for infinity."""
    is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
    return float(bound) if is_number and abs(bound) < 1e15 else None


def _span(edges: Sequence[float], bounds: Sequence[float | None]) -> tuple[float, float]:
    """The axis: the bins, stretched to bounds that lie near them."""
    low, high = float(edges[0]), float(edges[-1])
    reach = max(high - low, 1e-12)
    near = [b for b in map(_drawable, bounds) if b is not None and low - reach < b < high + reach]
    low, high = min([low, *near]), max([high, *near])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tints(
    bounds: Any, is_reversed: bool, low: float, high: float, place: Any, floor: float
) -> list[Markup]:
    """Tints over what the bounds exclude."""
    first, last = (_drawable(b) for b in (*bounds, None, None)[:2])
    if first is None and last is None:
        return []
    first = low if first is None else min(max(first, low), high)
    last = high if last is None else min(max(last, low), high)
    spans = [(first, last)] if is_reversed else [(low, first), (last, high)]
    return [
        element(
            "rect",
            class_="out",
            x=f"{place(a):.2f}%",
            y=0,
            width=f"{place(b) - place(a):.2f}%",
            height=floor,
        )
        for a, b in spans
        if b > a
    ]


def _bound_lines(bounds: Any, low: float, high: float, place: Any, floor: float) -> list[Markup]:
    marks = []
    for bound, sign in zip((*bounds, None, None)[:2], ("≥", "≤"), strict=True):
        value = _drawable(bound)
        if value is None or not low <= value <= high:
            continue
        x = place(value)
        is_left = x < 50
        marks.append(
            element("line", class_="bound", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=0, y2=floor)
        )
        marks.append(
            element(
                "text",
                escape(f"{sign} {numbers.figures(value)}"),
                class_="bound-label",
                x=f"{x:.2f}%",
                dx=5 if is_left else -5,
                y=11,
                text_anchor="start" if is_left else "end",
            )
        )
    return marks


def _height(rows: int, top: int, tall: float) -> float:
    """Pixels of a bar; one row among thousands still shows."""
    return max(1.5, tall * rows / top) if rows else 0.0
