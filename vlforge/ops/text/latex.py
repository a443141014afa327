"""Mappers on the source of LaTeX documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vlforge.ops.base import Grown, RowMapper, TextMapper, replaced
from vlforge.ops.batch import Batch
from vlforge.ops.text.expressions import expression
from vlforge.types import Drop, Row

_NEWCOMMAND = r"\\newcommand\*?\{(\\[a-zA-Z0-9]+)\}\{"
_DEF = r"\\def\s*(\\[a-zA-Z0-9]+)\s*\{"
LONGEST_EXPANSION = 1 << 25
"""Characters that an expanded text may have."""
MOST_WORK = 1 << 31
"""Characters that expanding one text may write, all macros together."""

_COMMENT_IN_LINE = re.compile(r"[^\\]%.+$", re.MULTILINE)
_COMMENT_LINE = re.compile(r"^%.*\n?", re.MULTILINE)
_HEADING = re.compile(
    r"\\(?:chapter|part|(?:sub){0,2}section|(?:sub)?paragraph)\*?(?P<bracket>[\[{])"
)
_BACK_MATTER = (
    r"\appendix",
    r"\begin{references}",
    r"\begin{REFERENCES}",
    r"\begin{thebibliography}",
)
_BIBLIOGRAPHY = r"\bibliography{"


class _TooLarge(Exception):
    """Macros that write one another's names grow beyond all bounds."""


@dataclass(frozen=True, kw_only=True)
class ExpandMacroMapper(RowMapper):
    """Write out LaTeX macros without arguments (`\\newcommand`, `\\def`).

    A definition must end its line. Macros are written out one after another in the
    order of their definitions (those by `\\newcommand` first), wherever the name is
    not part of a longer one, in the definitions themselves too. A name right after
    another or at the end of the text stays, as in Data-Juicer. A row whose macros
    grow beyond 33 million characters is dropped.
    """

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        return [
            self._expanded(item.row, text)
            for item, text in zip(batch.items, batch.texts(self.text_key), strict=True)
        ]

    def _expanded(self, row: Row, text: str) -> Row | Drop:
        try:
            after = with_macros_expanded(text)
        except _TooLarge:
            return Drop("", "macros grow too large", None, None, f"{LONGEST_EXPANSION} characters")
        return row if after == text else replaced(row, self.text_key, after)


@dataclass(frozen=True, kw_only=True)
class RemoveBibliographyMapper(TextMapper):
    """Cut LaTeX texts at their bibliography, references or appendix."""

    def rewrite(self, text: str) -> str:
        """The text before the first of them."""
        if "\\" not in text:
            return text
        cuts = [text.find(command) for command in _BACK_MATTER]
        cut = text.find(_BIBLIOGRAPHY)
        if text.rfind("}") > cut:
            cuts.append(cut)
        return text[: min((cut for cut in cuts if cut >= 0), default=len(text))]


@dataclass(frozen=True, kw_only=True)
class RemoveCommentsMapper(TextMapper):
    """Delete LaTeX comments: after text in a line (`inline`), and whole lines (`multiline`).

    A percent sign after a backslash is text; the character before a comment in a line
    (mostly a blank) goes with it, as in Data-Juicer. All `doc_type`s are taken for tex.
    """

    doc_type: str | list[str] = "tex"
    inline: bool = True
    multiline: bool = True

    def rewrite(self, text: str) -> str:
        """The text without comments."""
        if "%" not in text:
            return text
        if self.inline:
            text = _COMMENT_IN_LINE.sub("", text)
        return _COMMENT_LINE.sub("", text) if self.multiline else text


@dataclass(frozen=True, kw_only=True)
class RemoveHeaderMapper(TextMapper):
    """Cut what stands before the first LaTeX heading (chapter, part, section, paragraph).

    A text without a heading becomes empty, or stays where `drop_no_head` is false.
    """

    drop_no_head: bool = True

    def rewrite(self, text: str) -> str:
        """The text from its first heading on."""
        last_brace = text.rfind("}")
        last_pair = text.rfind("]{", 0, max(last_brace, 0))
        for found in _HEADING.finditer(text):
            is_short_title = found["bracket"] == "["
            if found.end() <= (last_pair if is_short_title else last_brace):
                return text[found.start() :]
        return "" if self.drop_no_head else text


def with_macros_expanded(text: str) -> str:
    """The text as `ExpandMacroMapper` describes.

    Raises:
        _TooLarge: expanding would write more than `MOST_WORK` characters.
    """
    if "\\newcommand" not in text and "\\def" not in text:
        return text
    macros = {
        name: value for head in (_NEWCOMMAND, _DEF) for name, value in _definitions(text, head)
    }
    work = 0
    for name, value in macros.items():
        longest = len(text) + text.count(name) * len(value)
        work += longest
        if longest > LONGEST_EXPANSION or work > MOST_WORK:
            raise _TooLarge
        text = _with_macro(text, name, value)
    return text


def _with_macro(text: str, name: str, value: str) -> str:
    """Each `name` that no letter or digit follows becomes `value`.

    The character after it is used up: a name right behind has lost its backslash.
    """
    used_up = re.compile(re.escape(name) + "([^a-zA-Z0-9])")
    return used_up.sub(lambda found: value + found[1], text)


def _definitions(text: str, head: str) -> Iterator[tuple[str, str]]:
    """(name, value) of definitions that end their lines; each line end is looked up once."""
    search = expression(head).search
    line_end = -1
    found = search(text)
    while found:
        if found.end() > line_end:
            line_end = text.find("\n", found.end())
            line_end = len(text) if line_end < 0 else line_end
        at = found.start() + 1
        if found.end() < line_end and text[line_end - 1] == "}":
            yield found[1], text[found.end() : line_end - 1]
            at = line_end
        found = search(text, at)
