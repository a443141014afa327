"""Reads a page as a parser does: ids, links, elements, what would run or load."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Reading(HTMLParser):
    """What stands in a page."""

    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "xlink:href"):
                self.links.append(value)
            elif name == "src":
                self.sources.append(value)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        """All text with single spaces, the style sheet included."""
        return " ".join(" ".join(self.words).split())


def read_page(page: Path) -> Reading:
    """The page at `page`."""
    reading = Reading()
    reading.feed(page.read_text(encoding="utf-8"))
    return reading
