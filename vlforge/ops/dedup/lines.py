"""Leaving out lines that many texts have in common."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlforge.ops.base import CorpusMapper, look_up, replaced
from vlforge.ops.dedup.documents import md5, not_letters
from vlforge.types import Drop, RecipeError, Row

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch

_BRACKETS = "{}[]();"
_LATEX = ("\\begin{", "\\end{")
_TAG = re.compile(r"</?[a-z][^>]*>?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class DocumentLineDeduplicator(CorpusMapper):
    """Leave out lines that stand in more than `frequency_threshold` texts, in all of them.

    Navigation bars, copyright notices and the like. A line counts once per
    text. `lowercase` compares lines without case, `ignore_special_character`
    without white space, digits and ASCII punctuation. Lines shorter than
    `min_line_length` characters (without outer white space) always stay; so do,
    unless the key is false, lines of brackets and semicolons only
    (`skip_brackets`), lines that start with # (`skip_markdown_headers`), with
    LaTeX's begin or end of an environment (`skip_latex_env`), and lines that
    are one HTML tag (`skip_html_tags`).

    No row is dropped: a text may become empty. A corpus of one row stays as it is.
    """

    frequency_threshold: int = 6
    lowercase: bool = False
    ignore_special_character: bool = False
    min_line_length: int = 2
    skip_brackets: bool = True
    skip_markdown_headers: bool = True
    skip_latex_env: bool = True
    skip_html_tags: bool = True

    def __post_init__(self) -> None:
        if self.frequency_threshold < 0:
            raise RecipeError(
                f"frequency_threshold is {self.frequency_threshold}: give a number from 0"
            )

    def keys(self, batch: Batch) -> list[Any]:
        return [
            sorted({print_ for print_ in self._prints(text.split("\n")) if print_ is not None})
            for text in batch.texts(self.text_key)
        ]

    def learn(self, keys: Iterable[Any]) -> list[int]:
        """The lines to leave out, in order."""
        import numpy as np

        found, rows = array("Q"), 0
        for prints in keys:
            rows += 1
            found.extend(prints)
        if rows <= 1 or not found:
            return []
        lines = np.frombuffer(found, dtype=np.uint64)
        lines.sort()
        begins = np.flatnonzero(np.concatenate(([True], lines[1:] != lines[:-1])))
        counts = np.diff(begins, append=len(lines))
        learned: list[int] = lines[begins[counts > self.frequency_threshold]].tolist()
        return learned

    def apply(self, batch: Batch, learned: Any) -> list[Row | Drop]:
        common = set(learned)
        rows = [item.row for item in batch.items]
        return [self._cleaned(row, common) for row in rows] if common else list(rows)

    def _cleaned(self, row: Row, common: set[int]) -> Row:
        text = look_up(row, self.text_key)
        if not isinstance(text, str):
            return row
        lines = text.split("\n")
        kept = [
            line
            for line, print_ in zip(lines, self._prints(lines), strict=True)
            if print_ not in common
        ]
        return row if len(kept) == len(lines) else replaced(row, self.text_key, "\n".join(kept))

    def _prints(self, lines: list[str]) -> Iterable[int | None]:
        """63 bits of each line's digest; None for a line that always stays."""
        return [None if self._stays(line.strip()) else self._print(line) for line in lines]

    def _stays(self, line: str) -> bool:
        return (
            len(line) < self.min_line_length
            or (self.skip_brackets and not line.strip(_BRACKETS))
            or (self.skip_markdown_headers and line.startswith("#"))
            or (self.skip_latex_env and line.startswith(_LATEX))
            or (self.skip_html_tags and _TAG.fullmatch(line) is not None)
        )

    def _print(self, line: str) -> int:
        if self.lowercase:
            line = line.lower()
        if self.ignore_special_character:
            line = not_letters().sub("", line)
        digest = md5(line.strip().encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) >> 1
