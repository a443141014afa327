"""The page of a dataset's check: what is wrong, how often, where first, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.data.checking.check import Report, Wanted
from vlforge.data.checking.findings import Example, Found, Level
from vlforge.reports import numbers
from vlforge.reports.page import Anchors, write_page
from vlforge.reports.pictures import Thumbnail, Thumbnails
from vlforge.reports.run_files import shorten

_PICTURE_BYTES = 900_000
_LANGUAGES = 12
_EXAMPLES = 6
_SHOWN = {"broken_image", "missing_image", "linked_image"}
"""Kinds whose pictures cannot be shown; all other kinds show theirs."""
_SIGNS: dict[Level, tuple[str, str]] = {
    "error": ("✕", "dropped"),
    "warning": ("!", "changed"),
    "note": ("i", "muted"),
}


@dataclass(frozen=True)
class ExampleView:
    """One place where a finding was seen."""

    anchor: str
    line: str
    id: str
    value: str
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class FoundView:
    """One kind of finding with its first examples."""

    anchor: str
    sign: str
    meaning: str
    level: Level
    title: str
    remedy: str
    count: int
    examples: tuple[ExampleView, ...]
    has_pictures: bool


def write_check(
    report: Report, wanted: Wanted, out: Path, *, title: str, format_name: str, links: list[str]
) -> None:
    """Write the page of a check to `out`: one file under 2 MB, offline, no scripts.

    Args:
        report: what was found.
        wanted: what was looked for.
        out: the page.
        title: the dataset's name.
        format_name: the format it was read as.
        links: files beside the page.
    """
    base: dict[str, Any] = {
        "title": title,
        "headline": headline(report),
        "format": format_name,
        "report": report,
        "wanted": wanted,
        "levels": {level: report.findings.count(level) for level in _SIGNS},
        "languages": _languages(report),
        "links": links,
    }
    write_page(out, "check.html.j2", lambda scale: base | {"found": _views(report, scale)})


def headline(report: Report) -> str:
    """One sentence: what the dataset is, and the worst that is wrong with it."""
    rows = _several(report.records, "row")
    text = f"{rows} with {_several(report.pictures, 'picture')}" if report.pictures else rows
    errors, warnings = report.findings.of("error"), report.findings.of("warning")
    if not errors and not warnings:
        return f"{text}: nothing is wrong"
    worst = [_told(one) for one in (errors or warnings)[:2]]
    more = len(errors or warnings) - len(worst)
    kind = "error" if errors else "warning"
    tail = f", and {more} more {'kinds' if more > 1 else 'kind'} of {kind}" if more else ""
    return f"{text}. {worst[0][0].upper()}{', '.join(worst)[1:]}{tail}"


def _told(found: Found) -> str:
    if found.kind.name in ("no_rows", "over_budget"):
        return found.kind.title
    return f"{found.kind.title} ({numbers.count(found.count)})"


def _several(number: int, one: str) -> str:
    return f"{numbers.count(number)} {one if number == 1 else one + 's'}"


def _languages(report: Report) -> list[tuple[str, float, str]]:
    """(language, share, words) of the most frequent, and of all others together."""
    whole = report.languages.total()
    top = report.languages.most_common(_LANGUAGES)
    rest = whole - sum(n for _, n in top)
    top += [("others", rest)] if rest else []
    return [
        (label or "(not certain)", n / whole, f"{n:,} · {numbers.percent(n, whole)}")
        for label, n in top
    ]


def _views(report: Report, scale: float) -> list[FoundView]:
    anchors = Anchors()
    thumbnails = Thumbnails(int(_PICTURE_BYTES * scale), side=120)
    most = max(3, int(_EXAMPLES * scale))
    return [_view(one, most, anchors, thumbnails) for one in report.findings.ordered()]


def _view(found: Found, most: int, anchors: Anchors, thumbnails: Thumbnails) -> FoundView:
    sign, meaning = _SIGNS[found.kind.level]
    anchor = anchors.take("finding", found.kind.name)
    shows = found.kind.name not in _SHOWN
    examples = tuple(
        _example(one, shows, anchors, thumbnails, found.kind.name) for one in found.examples[:most]
    )
    has_pictures = any(one.thumbnail is not None for one in examples)
    return FoundView(
        anchor, sign, meaning, found.kind.level, found.kind.title, found.kind.remedy,
        found.count, examples, has_pictures,
    )  # fmt: skip


def _example(
    one: Example, shows: bool, anchors: Anchors, thumbnails: Thumbnails, kind: str
) -> ExampleView:
    thumbnail = thumbnails.make(one.image, ()) if shows and one.image else None
    return ExampleView(
        anchors.take("example", kind, str(one.line)),
        str(one.line) if one.line else "",
        shorten("" if one.id is None else str(one.id), 60),
        shorten(one.value, 260),
        thumbnail if thumbnail is not None and thumbnail.src else None,
    )
