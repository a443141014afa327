"""Dropping texts by what they say word for word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Filter
from vlforge.ops.batch import Batch
from vlforge.ops.text.cleaning import compiled
from vlforge.types import Drop


@dataclass(frozen=True, kw_only=True)
class TextPatternFilter(Filter):
    """Drop texts that one of some regular expressions matches: boilerplate, file names.

    The text is searched without special tokens and outer white space, so that
    `^img_\\d+\\.jpg$` finds a file name given as a caption. `keep_matches` turns
    it round.
    """

    patterns: tuple[str, ...] = ()
    ignore_case: bool = True
    keep_matches: bool = False

    stats: ClassVar = ("matched_pattern",)

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            compiled(pattern)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = batch.texts(self.text_key, ignore_special_tokens=True)
        return ([self._first_match(text) for text in texts],)

    def keep(self, *values: Any) -> bool:
        return (values[0] != "") == self.keep_matches

    def fault(self, name: str, values: Any) -> Drop:
        """Names the expression that matched."""
        if self.keep_matches:
            return Drop(name, "matches no pattern", "matched_pattern", None, "one of patterns")
        return Drop(name, "matches a pattern", "matched_pattern", values[0], "no match")

    def _first_match(self, text: str) -> str:
        prefix = "(?i)" if self.ignore_case else ""
        for pattern in self.patterns:
            if compiled(prefix + pattern).search(text):
                return pattern
        return ""
