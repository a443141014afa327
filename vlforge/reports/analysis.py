"""The analysis of a dataset: one HTML page, from what a measuring `process` stage wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlforge.reports import analysis_charts, charts, numbers
from vlforge.reports.analysis_bounds import Interval, Rule, Suggestion, beyond, interval_of, suggest
from vlforge.reports.analysis_columns import Numbers
from vlforge.reports.analysis_examples import CardMaker, bad_lines
from vlforge.reports.analysis_plan import AnalysisPlan
from vlforge.reports.analysis_reading import NEAR_BITS, Example, Findings, rows_at
from vlforge.reports.analysis_tables import describe, percent_name
from vlforge.reports.page import Anchors, write_page
from vlforge.reports.pictures import Thumbnails
from vlforge.reports.process_view import describe_params

_PICTURE_BYTES = 900_000
_STRONGEST = 6
_LANGUAGES = 12
_WORDS = 3
"""Extremes that are told of one row."""


@dataclass(frozen=True)
class FilterView:
    """What one filter would do, with its bar."""

    op: str
    params: str
    alone: int
    only: int
    reasons: tuple[tuple[str, int], ...]
    bar: Markup


@dataclass(frozen=True)
class StatView:
    """One statistic's distribution; `words` say the bounds and what lies beyond them."""

    anchor: str
    stat: str
    op: str
    words: str
    lost: str
    chart: Markup


@dataclass(frozen=True)
class RuleView:
    """One rule's bounds as table rows and as a snippet."""

    name: str
    why: str
    rows: tuple[tuple[str, str, str, str, str, str], ...]
    """(statistic, operator, the recipe's bounds, lower, upper, share beyond)."""
    snippet: str


@dataclass(frozen=True)
class PictureView:
    """What is said of the pictures; `scatter` is empty where no size is known."""

    facts: tuple[tuple[str, str], ...]
    faults: tuple[tuple[str, int], ...]
    scatter: Markup
    is_each: bool
    has_bounds: bool


def write_analysis(
    plan: AnalysisPlan, findings: Findings, work: Path, out: Path, *, title: str, scope: str = ""
) -> None:
    """Write the page of an analysis to `out`: one file under 2 MB, offline, no scripts.

    Args:
        plan: what was asked.
        findings: what `read_findings` made of the folder `work`.
        work: holds `data.jsonl`, the rows themselves.
        out: the page.
        title: the dataset's name.
        scope: which part of the dataset was read, in words; "" for all of it.
    """
    links = ["overall.csv", "overall.md", f"{out.stem}_stats.jsonl"]
    base = _base_values(plan, findings) | {"title": title, "scope": scope, "links": links}
    write_page(
        out,
        "analysis.html.j2",
        lambda scale: base | _examples(plan, findings, work, scale),
    )


def headline(plan: AnalysisPlan, findings: Findings) -> str:
    """One sentence: what the filters would keep, or what the dataset is and what is wrong."""
    count = numbers.count
    if plan.is_recipe and plan.filters:
        kept, whole = findings.kept, findings.rows_in
        if kept == whole:
            return f"The filters would keep all of {_several(whole, 'row')}"
        text = f"The filters would keep {count(kept)} of {count(whole)} rows"
        text += f" ({numbers.percent(kept, whole)})".replace(" %", "\u00a0%")
        worst = max(plan.filters, key=lambda b: findings.filters[b.place].alone)
        most = findings.filters[worst.place].alone
        return f"{text}; {worst.name} would drop most: {count(most)}" if most else text
    rows, pictures = findings.rows_in, findings.pictures.number
    text = f"{_several(rows, 'row')} "
    text += f"with {_several(pictures, 'picture')}" if pictures else "without pictures"
    wrong = [words for number, words in _wrong(findings) if number]
    return f"{text}: {', '.join(wrong)}" if wrong else f"{text}, nothing broken or repeated"


def _wrong(findings: Findings) -> list[tuple[int, str]]:
    bad, faults = findings.bad.total(), findings.pictures.faults.total()
    texts = findings.texts.rows
    return [
        (bad, f"{_several(bad, 'row')} cannot be read"),
        (faults, f"{_several(faults, 'picture')} cannot be used"),
        (texts, f"{_several(texts, 'row repeats', 'rows repeat')} an earlier text"),
    ]


def _several(number: int, one: str, many: str = "") -> str:
    return f"{numbers.count(number)} {one if number == 1 else many or one + 's'}"


def _base_values(plan: AnalysisPlan, findings: Findings) -> dict[str, Any]:
    """All of the page that no thumbnail is in."""
    rules = suggest(plan.filters, findings.numbers)
    anchors = Anchors()
    return {
        "headline": headline(plan, findings),
        "plan": plan,
        "found": findings,
        "filters": _filters(plan, findings),
        "stats": _stats(plan, findings, anchors),
        "labels": _labels(findings),
        "rules": [_rule(rule, findings, plan) for rule in rules if rule.found],
        "quantiles": _quantile_rows(plan, findings),
        "percentiles": [percent_name(share) for share in plan.percentiles],
        "heat": analysis_charts.heat_rows(findings.correlated, findings.correlation),
        "has_heat": any(value is not None for row in findings.correlation for value in row),
        "strongest": _strongest(findings),
        "pictures": _pictures(plan, findings),
        "languages": _shares(findings.languages, _LANGUAGES),
        "bad_reasons": findings.bad.most_common(),
        "near_bits": NEAR_BITS if findings.looks_are_near else 0,
    }


def _examples(
    plan: AnalysisPlan, findings: Findings, work: Path, scale: float
) -> dict[str, list[Any]]:
    """Cards and lists, fewer where the page has to shrink."""
    cut = lambda n: max(1, int(n * scale))  # noqa: E731
    lost = _some(findings.dropped_examples, cut(24)) if plan.is_recipe else []
    kept = _some(findings.kept_examples, cut(12))
    edges = {} if plan.is_recipe else _edge_places(plan, findings, cut(24))
    repeats = (findings.texts, findings.files, findings.looks)
    wanted = {e.place for e in (*lost, *kept)} | set(edges)
    wanted |= {place for found in repeats for _, *places in found.largest for place in places}
    rows = rows_at(work / "data.jsonl", wanted)
    make = CardMaker(rows, plan.config, Thumbnails(int(_PICTURE_BYTES * scale)))
    return {
        "dropped_cards": make.dropped(lost, {b.place: b.name for b in plan.filters}),
        "edges": make.edges(edges),
        "kept_cards": make.kept(kept) if plan.is_recipe else [make.card(e.place) for e in kept],
        "repeats": make.repeats(findings, cut(4)),
        "bad_rows": bad_lines(findings.bad_rows[: cut(48)], make.anchors),
    }


def _some(examples: Sequence[Example], most: int) -> list[Example]:
    """Examples at even distances, so that a cut takes no end away."""
    step = max(1.0, len(examples) / most)
    return [examples[int(k * step)] for k in range(min(most, len(examples)))]


def _edge_places(plan: AnalysisPlan, findings: Findings, most: int) -> dict[int, list[str]]:
    """Rows with the lowest and highest values, and what is extreme about them.

    A value that many rows share is no edge. First one row for each end, then the next ones.
    """
    edges: dict[int, list[str]] = {}
    ends = [
        (turn, place, f"{word} {stat}: {numbers.figures(value)}")
        for turn in (0, 1)
        for stat in plan.stats
        if stat in findings.numbers and findings.numbers[stat].low < findings.numbers[stat].high
        for word, found in (("lowest", findings.lowest[stat]), ("highest", findings.highest[stat]))
        for value, place in found[turn : turn + 1]
        if not _is_common(findings.numbers[stat], value)
    ]
    for turn, place, words in ends:
        said = edges.get(place, [])
        if not said and len(edges) < most:
            edges[place] = [words]
        elif said and turn == 0 and len(said) < _WORDS:
            said.append(words)
    return edges


def _is_common(found: Numbers, value: float) -> bool:
    same = found.below(value, inclusive=True) - found.below(value, inclusive=False)
    return same > max(2, found.count / 100)


def _filters(plan: AnalysisPlan, findings: Findings) -> list[FilterView]:
    if not plan.is_recipe:
        return []
    return [
        FilterView(
            bound.name,
            describe_params(bound.params),
            (count := findings.filters[bound.place]).alone,
            count.only,
            tuple(count.reasons.most_common(4)),
            analysis_charts.drop_bar(count.only, count.alone, findings.rows),
        )
        for bound in plan.filters
    ]


def _stats(plan: AnalysisPlan, findings: Findings, anchors: Anchors) -> list[StatView]:
    views = []
    for bound in plan.filters:
        for stat in getattr(bound.op, "stats", ()):
            if stat not in findings.numbers:
                continue
            found = findings.numbers[stat]
            interval: Interval = interval_of(bound.op, stat) if plan.is_recipe else Interval()
            words = charts.bound_words(interval.pair, interval.is_reversed)
            label = f"{stat}: {found.count:,} values, {words}"
            chart = analysis_charts.distribution(found, interval, label)
            views.append(
                StatView(
                    anchors.take("stat", stat),
                    stat,
                    bound.name,
                    words if plan.is_recipe else "",
                    _beyond_words(found, interval),
                    chart,
                )
            )
    return views


def _beyond_words(found: Numbers, interval: Interval) -> str:
    """How many values the bounds exclude, on each side."""
    below, above = beyond(found, interval)
    sides = (("inside", below),) if interval.is_reversed else (("below", below), ("above", above))
    told = [
        f"{numbers.count(n)} {side} ({numbers.percent(n, found.count)})" for side, n in sides if n
    ]
    if interval.pair == (None, None):
        return ""
    return ", ".join(told) or "none beyond"


def _labels(findings: Findings) -> list[tuple[str, Any]]:
    """Statistics that are words, but for languages, which have their own place."""
    return [
        (name, _shares(counts, _LANGUAGES))
        for name, counts in findings.labels.items()
        if name != "lang"
    ]


def _shares(counts: Any, most: int) -> list[tuple[str, float, str]]:
    """(label, share, words) of the most frequent, and of all others together."""
    whole = counts.total()
    top = counts.most_common(most)
    rest = whole - sum(n for _, n in top)
    top += [("others", rest)] if rest else []
    return [
        (label or "(none)", n / whole, f"{n:,} · {numbers.percent(n, whole)}") for label, n in top
    ]


def _rule(rule: Rule, findings: Findings, plan: AnalysisPlan) -> RuleView:
    return RuleView(
        rule.name,
        rule.why,
        tuple(_rule_row(one, findings, plan) for one in rule.found),
        rule.snippet,
    )


def _rule_row(
    one: Suggestion, findings: Findings, plan: AnalysisPlan
) -> tuple[str, str, str, str, str, str]:
    low, high = (
        numbers.figures(end) if key else numbers.NONE
        for key, end in zip(one.keys, (one.low, one.high), strict=True)
    )
    now = ""
    if plan.is_recipe:
        interval = interval_of(one.bound.op, one.stat)
        found = findings.numbers[one.stat]
        now = charts.bound_words(interval.pair).removeprefix("keeps ")
        now += f" · {numbers.percent(sum(beyond(found, interval)), found.count)}"
    share = numbers.percent(one.beyond, 1) if one.beyond else "none"
    return one.stat, one.bound.name, now, low, high, share


def _quantile_rows(plan: AnalysisPlan, findings: Findings) -> list[tuple[str, list[str]]]:
    """(statistic, its describe row as written)."""
    return [
        (stat, [numbers.count(int(column["count"] or 0)), *map(_cell, list(column.values())[1:])])
        for stat, column in describe(findings, plan).items()
        if "mean" in column
    ]


def _cell(value: Any) -> str:
    return numbers.figures(value)


def _strongest(findings: Findings) -> list[tuple[str, str, str]]:
    """The pairs that say nearly the same, or the opposite."""
    names, matrix = findings.correlated, findings.correlation
    pairs = [
        (value, names[i], names[j])
        for i, row in enumerate(matrix)
        for j, value in enumerate(row[:i])
        if value is not None and abs(value) >= 0.5
    ]
    pairs.sort(key=lambda pair: -abs(pair[0]))
    return [(a, b, numbers.signed(value, 2)) for value, a, b in pairs[:_STRONGEST]]


def _pictures(plan: AnalysisPlan, findings: Findings) -> PictureView:
    facts = findings.pictures
    several = sum(n for pictures, n in facts.per_row.items() if pictures > 1)
    told: list[tuple[str, int]] = [
        ("pictures", facts.number),
        ("cannot be used", facts.faults.total()),
        ("rows without a picture", facts.per_row.get(0, 0)),
        ("rows with several", several),
        ("rows whose picture tokens do not match", facts.mismatched),
    ]
    limits = _picture_limits(plan)
    scatter, is_each = Markup(""), True
    if facts.grid:
        label = f"width and height of {facts.number:,} pictures"
        scatter, is_each = analysis_charts.size_scatter(facts, limits, label)
    shown = tuple((name, numbers.count(n)) for k, (name, n) in enumerate(told) if n or k == 0)
    has_bounds = any(limit.pair != (None, None) for limit in limits.values())
    return PictureView(shown, tuple(facts.faults.most_common()), scatter, is_each, has_bounds)


def _picture_limits(plan: AnalysisPlan) -> Mapping[str, Interval]:
    if not plan.is_recipe:
        return {}
    wanted = ("image_width", "image_height", "aspect_ratios")
    return {
        stat: interval_of(bound.op, stat) for stat, bound in plan.stats.items() if stat in wanted
    }
