"""Mappers on pages and files: markup, comments and tables around the running text."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import TextMapper
from vlforge.ops.text.expressions import expression
from vlforge.types import RecipeError

_BULLETS = (("<li>", "\n*"), ("</li>", ""), ("<ol>", "\n*"), ("</ol>", ""))
_NEEDS_PARSER = re.compile("<[a-zA-Z/!?]|[&\r\0\ud800-\udfff]")
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s<>/]*)")
# Elements that have no end, or whose end browsers find by themselves.
_ENDLESS = frozenset(
    "area base br col embed hr img input link meta source track wbr li p tr td th tbody thead "
    "tfoot rb rt rp colgroup body head html".split()
)
# Elements that cost the parser as much as open ones, closed or not.
_SLOW = frozenset(("option", "optgroup", "dd", "dt"))
DEEPEST_PAGE = 10_000
"""Elements that may stand open at once; the parser's work grows with their square."""

_COMMENT_MARKS = ("//", "#", "--")


@dataclass(frozen=True, kw_only=True)
class CleanHtmlMapper(TextMapper):
    """Take the text out of HTML; list items become lines that start with `*`.

    Only bare `<li>` and `<ol>` make bullets, and the content of style and script
    elements counts as text, as in Data-Juicer. Where a page leaves more than 10,000
    elements open (or has as many options or definitions), on which the parser takes
    minutes, their tags are taken out beforehand. Needs selectolax:
    `pip install 'vlforge[ops]'`.
    """

    def __post_init__(self) -> None:
        _html_parser()

    def rewrite(self, text: str) -> str:
        """The text without markup; one without any is not even shown to the parser."""
        if not _NEEDS_PARSER.search(text):
            return text.lstrip("\t\n\f ")
        for tag, bullet in _BULLETS:
            text = text.replace(tag, bullet)
        parsed: str = _html_parser()(_flattened(text)).text()
        return parsed


@dataclass(frozen=True, kw_only=True)
class CleanCopyrightMapper(TextMapper):
    """Delete copyright comments from source code.

    The first `/* ... */` goes if it speaks of copyright. In a text without one, the
    empty lines and the lines of comment (`//`, `#`, `--`) at its start go.
    """

    def rewrite(self, text: str) -> str:
        """The text without them."""
        start = text.find("/*")
        end = text.find("*/", start + 2) + 2 if start >= 0 else 1
        if end > 1:
            speaks = expression("(?i)copyright").search(text, start, end)
            return text[:start] + text[end:] if speaks else text
        at = 0
        while at < len(text) and (text[at] == "\n" or text.startswith(_COMMENT_MARKS, at)):
            line_end = text.find("\n", at)
            at = len(text) if line_end < 0 else line_end + 1
        return text[at:]


@dataclass(frozen=True, kw_only=True)
class RemoveTableTextMapper(TextMapper):
    """Delete tables written as text, of `min_col` to `max_col` columns (2 to 20).

    A table is two lines or more, not the first of a text and each ended by a line
    feed, of words with one blank, tab or `|` between them, each line with as many
    columns. So two lines of running text with as many words are one too.
    """

    min_col: int = 2
    max_col: int = 20

    def __post_init__(self) -> None:
        for key, value in (("min_col", self.min_col), ("max_col", self.max_col)):
            if not 2 <= value <= 20:
                raise RecipeError(f"remove_table_text_mapper.{key} is {value}: take 2 to 20")

    def rewrite(self, text: str) -> str:
        """The text without tables, narrow ones taken out first."""
        if text.count("\n") < 3:
            return text
        lines = text.split("\n")
        columns = [columns_of(line) for line in lines]
        # What has no line feed before or behind it is in no table.
        columns[0] = columns[-1] = _NO_ROW
        for wanted in range(self.min_col, self.max_col + 1):
            if sum(n for pair, n in Counter(columns).items() if _fits(pair, wanted)) < 2:
                continue
            stays = _outside_tables(lines, columns, wanted)
            if len(stays) < len(lines):
                lines = [lines[at] for at in stays]
                columns = [columns[at] for at in stays]
        return "\n".join(lines)


_NO_ROW = (1, 0)


def columns_of(line: str) -> tuple[int, int]:
    """The fewest and most columns that a line can be read as, (1, 0) where it is no row.

    Blanks and tabs always part columns; a `|` may, or may belong to a word.
    """
    if not line or expression(r"^[ \t]|[ \t]{2}|[ \t]$|[^\S \t]").search(line):
        return _NO_ROW
    fewest = 1 + line.count(" ") + line.count("\t")
    return fewest, fewest + len(_BAR_IN_WORD.findall(line)) if "|" in line else fewest


_BAR_IN_WORD = re.compile(r"[^ \t]\|(?=[^ \t])")


def _outside_tables(lines: list[str], columns: list[tuple[int, int]], wanted: int) -> list[int]:
    """The places of the lines that are in no table of `wanted` columns.

    Empty lines between and behind the rows of a table belong to it.
    """
    stays: list[int] = []
    last = len(lines) - 1
    at = 0
    while at <= last:
        end, rows = at, 0
        while end < last and (_fits(columns[end], wanted) or (rows and not lines[end])):
            rows += _fits(columns[end], wanted)
            end += 1
        if rows < 2:
            end = max(end, at + 1)
            stays += range(at, end)
        at = end
    return stays


def _fits(columns: tuple[int, int], wanted: int) -> bool:
    return columns[0] <= wanted <= columns[1]


def _flattened(text: str) -> str:
    """The page without the tags of which too many stand open; others as they are."""
    if text.count("<") <= DEEPEST_PAGE:
        return text
    open_now: Counter[str] = Counter()
    for ends, tag in _TAG.findall(text):
        name = tag.lower()
        if not ends:
            open_now[name] += 1
        elif name not in _SLOW:
            open_now[name] -= 1
    too_deep = {
        name
        for name, count in open_now.items()
        if name not in _ENDLESS and count > DEEPEST_PAGE // 10
    }
    if sum(open_now[name] for name in too_deep) <= DEEPEST_PAGE:
        return text
    names = "|".join(map(re.escape, sorted(too_deep)))
    return re.sub(rf"</?(?:{names})(?=[\s/>])[^<>]*>", "", text, flags=re.IGNORECASE)


@functools.cache
def _html_parser() -> Any:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError:
        raise RecipeError(
            "clean_html_mapper needs selectolax: pip install 'vlforge[ops]'"
        ) from None
    # Freeing one large block teaches the C library to keep the parser's pages from text to text
    # instead of asking the kernel for them each time: 12 us a text instead of 45.
    bytes(1 << 20)
    return LexborHTMLParser
