"""Rows on the page of an analysis: kept, dropped, at the edges, repeated, broken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.reports.analysis_reading import Example, Findings
from vlforge.reports.page import Anchors, caption_of
from vlforge.reports.pictures import Thumbnail, Thumbnails
from vlforge.reports.process_view import Card, DropLine, reason_words
from vlforge.reports.run_files import shorten

_TEXT = 220


@dataclass(frozen=True)
class Edge:
    """A row with extreme values, and which these are."""

    card: Card
    words: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A kind of repetition: how much there is of it, and rows of the largest groups."""

    name: str
    rows: int
    groups: int
    cards: tuple[Card, ...]


@dataclass
class CardMaker:
    """Makes the cards of one page from rows, by their places."""

    rows: Mapping[int, Mapping[str, Any]]
    config: ProcessConfig
    thumbnails: Thumbnails
    anchors: Anchors = field(default_factory=Anchors)

    def card(self, place: int, meaning: str = "", badge: str = "", foot: str = "") -> Card:
        """One row with its first picture."""
        row, config = self.rows.get(place, {}), self.config
        name = str(row.get("id") if row.get("id") is not None else f"row {place + 1}")
        images = row.get(config.image_key)
        images = images if isinstance(images, list) else []
        thumbnail = Thumbnail(note="no picture")
        if images:
            thumbnail = self.thumbnails.make(str(images[0]), ())
        text = str(row.get(config.text_key) or "")
        for token in filter(None, (config.image_special_token, config.eoc_special_token)):
            text = text.replace(token, " ")
        more = f"{len(images)} pictures" if len(images) > 1 else ""
        return Card(
            anchor=self.anchors.take("sample", name),
            id=shorten(name, 80),
            thumbnail=thumbnail,
            meaning=meaning,
            badge=badge,
            before=shorten(caption_of(text), _TEXT),
            foot=" · ".join(filter(None, (foot, more))),
        )

    def dropped(self, examples: Iterable[Example], names: Mapping[int, str]) -> list[Card]:
        """Rows that a filter would drop, with its reason on the picture."""
        return [
            self.card(e.place, "dropped", _reason(e.drop), names.get(e.op or 0, ""))
            for e in examples
        ]

    def kept(self, examples: Iterable[Example]) -> list[Card]:
        """Rows that every filter would keep."""
        return [self.card(e.place, "kept", "kept") for e in examples]

    def edges(self, edges: Mapping[int, Sequence[str]]) -> list[Edge]:
        """Rows with the lowest and highest values."""
        return [Edge(self.card(place), tuple(words)) for place, words in edges.items()]

    def repeats(self, findings: Findings, most: int) -> list[Group]:
        """Repeated texts, picture files and looks, those that there are.

        Of pictures that look alike the last of a group is shown too, so that one can compare.
        """
        groups = []
        for name, found, shows_last in (
            ("The same text", findings.texts, False),
            ("The same picture files", findings.files, False),
            ("Pictures that look alike", findings.looks, True),
        ):
            cards = []
            for count, first, last in found.largest[:most]:
                cards.append(self.card(first, foot=f"{count:,} rows"))
                if shows_last:
                    cards.append(self.card(last, foot="the last of these"))
            if found.rows:
                groups.append(Group(name, found.rows, found.groups, tuple(cards)))
        return groups


def _reason(drop: Mapping[str, Any]) -> str:
    """The reason with what was found; of a broken picture without its long path."""
    value = drop.get("value")
    if isinstance(value, str) and value and drop.get("stat"):
        return shorten(f"{drop.get('reason')}: {value}", 110)
    return reason_words(drop)


def bad_lines(records: Iterable[Mapping[str, Any]], anchors: Anchors) -> list[DropLine]:
    """Lines that are no rows, and rows that could not be read."""
    return [
        DropLine(
            anchor=anchors.take("bad", str(record.get("uid"))),
            id=shorten(str(record.get("id") or ""), 80),
            line=str(record.get("line", "")),
            reason=str(record.get("reason", "")),
            text=shorten(str(record.get("value") or ""), 160),
        )
        for record in records
    ]
