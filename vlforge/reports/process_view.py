"""What a page shows of one process stage: funnel, galleries, histograms, list of drops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlforge.reports import charts, numbers
from vlforge.reports.page import Anchors, caption_of, mark_changes
from vlforge.reports.pictures import Thumbnail, Thumbnails
from vlforge.reports.run_files import number, read_lines, read_mapping, shorten

_BINS = (8, 40)
READ = "read"
"""Stands for reading in drop records and funnels: lines that are no rows."""


@dataclass(frozen=True)
class Limits:
    """How many samples a page shows of each kind."""

    kept: int = 6
    dropped: int = 12
    changed: int = 8
    listed: int = 0
    """Drops in the list, over all operators."""

    def scaled(self, scale: float) -> Limits:
        """The same in smaller, never below one of each."""
        cut = lambda n: max(1, int(n * scale)) if n else 0  # noqa: E731
        return Limits(cut(self.kept), cut(self.dropped), cut(self.changed), cut(self.listed))


@dataclass(frozen=True)
class FunnelRow:
    """One operator's counts and its bar."""

    op: str
    params: str
    rows_in: int
    rows_out: int
    changed: int
    dropped: int
    added: int
    seconds: float
    reasons: tuple[tuple[str, int], ...]
    bar: Markup


@dataclass(frozen=True)
class Card:
    """One sample: its picture, its words and what became of it."""

    anchor: str
    id: str
    thumbnail: Thumbnail
    meaning: str
    badge: str
    before: str | Markup = ""
    after: str | Markup = ""
    foot: str = ""


@dataclass(frozen=True)
class StatChart:
    """One statistic's histogram; `words` say the bounds."""

    op: str
    stat: str
    chart: Markup
    words: str
    mean: float | None


@dataclass(frozen=True)
class DropLine:
    """One dropped row in the list."""

    anchor: str
    id: str
    line: str
    reason: str
    text: str


@dataclass(frozen=True)
class ProcessView:
    """All that a page shows of one process stage."""

    rows_in: int
    rows_out: int
    bad_lines: int
    changed: int
    dropped: int
    seconds: float
    funnel: tuple[FunnelRow, ...]
    """Operators in the recipe's order; `read` before them where lines could not be read."""
    kept_cards: tuple[Card, ...]
    dropped_cards: tuple[Card, ...]
    changed_cards: tuple[Card, ...]
    stats: tuple[StatChart, ...]
    drops: tuple[tuple[str, int, tuple[DropLine, ...]], ...]


def view_process(
    folder: Path,
    anchors: Anchors,
    thumbnails: Thumbnails,
    roots: Sequence[Path] = (),
    limits: Limits | None = None,
) -> ProcessView:
    """Read one process folder; whatever it lacks is left empty.

    Args:
        folder: where `funnel.json`, `data.jsonl`, `dropped.jsonl`, `changed.jsonl` stand.
        roots: further folders that relative picture paths may start from.
    """
    limits = limits or Limits()
    roots = (folder, *roots)
    report = read_mapping(folder / "funnel.json")
    ops = _operators(report)
    rows_in, rows_out = _int(report, "rows_in"), _int(report, "rows_out")
    chosen, listed = _choose_drops(folder, limits, [str(o.get("op")) for o in ops])
    dropped = [_dropped_card(d, anchors, thumbnails, roots) for d in chosen]
    changed = [
        _changed_card(c, images, anchors, thumbnails, roots)
        for c, images in _choose_changes(folder, limits.changed)
    ]
    kept = [
        _kept_card(row, anchors, thumbnails, roots)
        for row in _spread_rows(folder / "data.jsonl", rows_out, limits.kept)
    ]
    totals = {str(o.get("op")): _int(o, "dropped") for o in ops}
    return ProcessView(
        rows_in=rows_in,
        rows_out=rows_out,
        bad_lines=_int(report, "bad_lines"),
        changed=sum(_int(o, "changed") for o in ops),
        dropped=sum(_int(o, "dropped") for o in ops if o.get("op") != READ),
        seconds=number(report.get("seconds")) or 0.0,
        funnel=tuple(_funnel_row(o, rows_in) for o in ops),
        kept_cards=tuple(kept),
        dropped_cards=tuple(dropped),
        changed_cards=tuple(changed),
        stats=tuple(s for o in ops for s in _stat_charts(o)),
        drops=tuple(
            (op, totals.get(op, len(lines)), tuple(_drop_line(d, anchors) for d in lines))
            for op, lines in listed.items()
        ),
    )


def describe_params(params: Any, most: int = 120) -> str:
    """An operator's settings on one line."""
    if not isinstance(params, Mapping):
        return ""
    return shorten(", ".join(f"{k} {_plain(v)}" for k, v in params.items()), most)


def _operators(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The funnel's operators, with reading before them where it lost lines."""
    ops = [o for o in report.get("ops") or [] if isinstance(o, Mapping)]
    bad, rows = _int(report, "bad_lines"), _int(report, "rows_in")
    if bad:
        reasons = report.get("bad_reasons") or {}
        lost = {"rows_in": rows, "rows_out": rows - bad, "dropped": bad, "reasons": reasons}
        ops.insert(0, {"op": READ, **lost})
    return ops


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " | ".join(map(_plain, value))
    return numbers.figures(value) if isinstance(value, float) else str(value)


def _int(entry: Mapping[str, Any], key: str) -> int:
    return int(number(entry.get(key)) or 0)


def _funnel_row(op: Mapping[str, Any], whole: int) -> FunnelRow:
    rows_in, rows_out = _int(op, "rows_in"), _int(op, "rows_out")
    changed, dropped = _int(op, "changed"), _int(op, "dropped")
    reasons = op.get("reasons") if isinstance(op.get("reasons"), Mapping) else {}
    ranked = Counter({str(k): int(number(v) or 0) for k, v in reasons.items()}).most_common(6)
    return FunnelRow(
        op=str(op.get("op", "?")),
        params=describe_params(op.get("params")),
        rows_in=rows_in,
        rows_out=rows_out,
        changed=changed,
        dropped=dropped,
        added=_int(op, "added"),
        seconds=number(op.get("seconds")) or 0.0,
        reasons=tuple(ranked),
        bar=charts.funnel_bar(rows_out, min(changed, rows_out), dropped, max(whole, rows_in)),
    )


def _stat_charts(op: Mapping[str, Any]) -> Iterator[StatChart]:
    stats = op.get("stats") if isinstance(op.get("stats"), Mapping) else {}
    for stat, entry in stats.items():
        shape = entry.get("histogram") if isinstance(entry, Mapping) else None
        if not isinstance(shape, Mapping):
            continue
        edges = [number(v) for v in shape.get("edges") or []]
        counts = [int(number(v) or 0) for v in shape.get("counts") or []]
        kept = [int(number(v) or 0) for v in shape.get("kept_counts") or counts]
        if None in edges or len(edges) != len(counts) + 1 or not counts or len(kept) != len(counts):
            continue
        edges, counts, kept = _fewer_bins(edges, counts, kept)
        bounds = entry.get("bounds") or (None, None)
        params = op.get("params")
        is_reversed = isinstance(params, Mapping) and bool(params.get("reversed_range"))
        words = charts.bound_words(bounds, is_reversed)
        label = f"{stat}: {sum(counts):,} values, {words}"
        chart = charts.histogram(edges, counts, kept, bounds, label, is_reversed)
        yield StatChart(str(op.get("op")), str(stat), chart, words, number(entry.get("mean")))


def _fewer_bins(edges: list, counts: list, kept: list) -> tuple[list, list, list]:
    """Neighbouring bins joined: few values need few bins to show a shape."""
    most = min(_BINS[1], max(_BINS[0], round(2 * sum(counts) ** 0.5)))
    step = -(-len(counts) // most)
    joined = lambda values: [sum(values[k : k + step]) for k in range(0, len(values), step)]  # noqa: E731
    return [*edges[:-1:step], edges[-1]], joined(counts), joined(kept)


def _choose_drops(
    folder: Path, limits: Limits, ops: Sequence[str]
) -> tuple[list[dict], dict[str, list[dict]]]:
    """Drops for the gallery, an operator's turn at a time, and drops for the list, by operator."""
    by_reason: dict[str, dict[str, list[dict]]] = {op: {} for op in ops}
    listed: dict[str, list[dict]] = {op: [] for op in ops}
    for drop in read_lines(folder / "dropped.jsonl"):
        op, reason = str(drop.get("op", "?")), str(drop.get("reason", ""))
        same = by_reason.setdefault(op, {}).setdefault(reason, [])
        if len(same) < limits.dropped:
            same.append(drop)
        listed.setdefault(op, []).append(drop)
    listed = {op: rows for op, rows in listed.items() if rows}
    share = max(1, limits.listed // max(1, len(listed)))
    per_op = [list(_round_robin(reasons.values())) for reasons in by_reason.values()]
    chosen = list(_round_robin(per_op))[: limits.dropped]
    order = {op: k for k, op in enumerate(by_reason)}
    chosen.sort(key=lambda d: order[str(d.get("op", "?"))])
    return chosen, {op: rows[:share] for op, rows in list(listed.items())[: limits.listed]}


def _round_robin(lists: Iterable[Sequence[dict]]) -> Iterator[dict]:
    for turn in zip_longest(*lists):
        yield from (item for item in turn if item is not None)


def _choose_changes(folder: Path, most: int) -> list[tuple[dict, list[str]]]:
    """Changes with their pictures: captions that were written anew come first."""
    by_op: dict[str, list[dict]] = {}
    for change in read_lines(folder / "changed.jsonl", 20_000):
        if _text_of(change.get("before")) != _text_of(change.get("after")):
            by_op.setdefault(str(change.get("op", "?")), []).append(change)
    ops = sorted(by_op, key=lambda op: "caption" not in op)
    chosen = list(_round_robin([by_op[op][:most] for op in ops]))[:most]
    chosen.sort(key=lambda c: ops.index(str(c.get("op", "?"))))
    wanted = {str(c.get("id")) for c in chosen if not _images_of(c)}
    known = _images_by_id(folder, wanted) if wanted else {}
    return [(c, _images_of(c) or known.get(str(c.get("id")), [])) for c in chosen]


def _images_by_id(folder: Path, wanted: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    kept = read_lines(folder / "data.jsonl")
    lost = (d.get("row") for d in read_lines(folder / "dropped.jsonl"))
    for row in (*_matching(kept, wanted), *_matching(lost, wanted)):
        found.setdefault(str(row.get("id")), _images_of(row))
    return found


def _matching(rows: Iterable[Any], wanted: set[str]) -> Iterator[dict]:
    return (r for r in rows if isinstance(r, dict) and str(r.get("id")) in wanted)


def _images_of(entry: Mapping[str, Any]) -> list[str]:
    for holder in (entry, entry.get("after"), entry.get("before"), entry.get("row")):
        images = holder.get("images") if isinstance(holder, Mapping) else None
        if isinstance(images, list) and images:
            return [str(i) for i in images]
    return []


def _text_of(value: Any) -> str:
    return caption_of(value.get("text") if isinstance(value, Mapping) else value)


def _spread_rows(path: Path, total: int, most: int) -> list[dict]:
    """`most` rows at even distances, so that the gallery is not the file's head alone."""
    if not most:
        return []
    stride = max(1, min(total, 200_000) // most)
    return [row for k, row in enumerate(read_lines(path)) if k % stride == 0][:most]


def _dropped_card(
    drop: Mapping[str, Any], anchors: Anchors, thumbnails: Thumbnails, roots: Sequence[Path]
) -> Card:
    row = drop.get("row") if isinstance(drop.get("row"), Mapping) else {}
    images = _images_of(row)
    more = f" · {len(images)} pictures" if len(images) > 1 else ""
    return Card(
        anchor=anchors.take("sample", _id_of(drop)),
        id=_id_of(drop),
        thumbnail=thumbnails.make(images[0] if images else None, roots),
        meaning="dropped",
        badge=reason_words(drop),
        before=shorten(caption_of(row.get("text")) or _line_words(drop), 220),
        foot=str(drop.get("op", "")) + more,
    )


def reason_words(drop: Mapping[str, Any]) -> str:
    """The reason with its value and bound, where the reason does not hold them already."""
    reason, value = str(drop.get("reason") or "dropped"), drop.get("value")
    shown = str(value or "") if drop.get("stat") == "repeats" else ""
    values = [number(v) for v in (value if isinstance(value, list) else [value])]
    if values and None not in values:
        shown = ", ".join(numbers.figures(v) for v in values)
    if shown and shown not in reason:
        bound = str(drop.get("bound") or "").replace(">=", "≥").replace("<=", "≤")
        reason += f": {shown}" + (f", bound {bound}" if bound else "")
    return shorten(reason, 110)


def _changed_card(
    change: Mapping[str, Any],
    images: Sequence[str],
    anchors: Anchors,
    thumbnails: Thumbnails,
    roots: Sequence[Path],
) -> Card:
    before, after = mark_changes(_text_of(change.get("before")), _text_of(change.get("after")))
    return Card(
        anchor=anchors.take("sample", _id_of(change)),
        id=_id_of(change),
        thumbnail=thumbnails.make(images[0] if images else None, roots),
        meaning="changed",
        badge=shorten(str(change.get("op", "")), 60),
        before=before,
        after=after,
        foot=_origin_words(change.get("provenance"), str(change.get("op", ""))),
    )


def _origin_words(origins: Any, op: str) -> str:
    """`written by MODEL, prompt 0a1b2c` where a model made the change."""
    for entry in reversed(origins if isinstance(origins, list) else []):
        if isinstance(entry, Mapping) and entry.get("op") == op and entry.get("model"):
            name = Path(str(entry["model"])).name
            prompt = entry.get("prompt")
            return shorten(f"written by {name}" + (f", prompt {prompt}" if prompt else ""), 90)
    return ""


def _kept_card(
    row: Mapping[str, Any], anchors: Anchors, thumbnails: Thumbnails, roots: Sequence[Path]
) -> Card:
    images = _images_of(row)
    return Card(
        anchor=anchors.take("sample", _id_of(row)),
        id=_id_of(row),
        thumbnail=thumbnails.make(images[0] if images else None, roots),
        meaning="kept",
        badge="kept",
        before=shorten(caption_of(row.get("text")), 220),
        foot=f"{len(images)} pictures" if len(images) > 1 else "",
    )


def _id_of(entry: Mapping[str, Any]) -> str:
    value = entry.get("id")
    return shorten(str(entry.get("uid", "?") if value is None else value), 80)


def _line_words(drop: Mapping[str, Any]) -> str:
    """What stood in a line that is no row."""
    return str(drop.get("value") or "") if drop.get("op") == READ else ""


def _drop_line(drop: Mapping[str, Any], anchors: Anchors) -> DropLine:
    row = drop.get("row") if isinstance(drop.get("row"), Mapping) else {}
    return DropLine(
        anchor=anchors.take("drop", str(drop.get("uid") or _id_of(drop))),
        id=_id_of(drop),
        line=str(drop.get("line", "")),
        reason=reason_words(drop),
        text=shorten(caption_of(row.get("text")) or _line_words(drop), 110),
    )
