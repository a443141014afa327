"""Keeping the first of equal texts."""

from __future__ import annotations

import functools
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlforge.ops.base import Dedup
from vlforge.types import Drop

try:  # CPython's own: on a few bytes a third of the time of OpenSSL's
    from _md5 import md5
except ImportError:
    from hashlib import md5

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch

_NEWER_DIGITS = (
    "\U00010d40-\U00010d49\U000116d0-\U000116e3\U00011bf0-\U00011bf9\U00011de0-\U00011de9"
    "\U00011f50-\U00011f59\U00016130-\U00016139\U00016d70-\U00016d79\U0001ccf0-\U0001ccf9"
    "\U0001e4f0-\U0001e4f9\U0001e5f1-\U0001e5fa"
)
"""Decimal digits that Unicode 15 to 17 added, which older Pythons take for unassigned."""
_INFORMATION_SEPARATORS = "\x1c-\x1f"
"""White space to Python, not to Unicode."""


@dataclass(frozen=True, kw_only=True)
class DocumentDeduplicator(Dedup):
    """Keep the first of rows with the same text.

    `lowercase` compares without case, `ignore_non_character` without white
    space, digits and ASCII punctuation. Outer white space never counts.
    """

    lowercase: bool = False
    ignore_non_character: bool = False

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        return [
            text_digest(text, self.lowercase, self.ignore_non_character)
            for text in batch.texts(self.text_key)
        ]


def text_digest(text: str, lowercase: bool = False, ignore_non_character: bool = False) -> bytes:
    """16 bytes, equal for equal texts."""
    if lowercase:
        text = text.lower()
    if ignore_non_character:
        text = _not_letters_of_unicode().sub("", text)
    return md5(text.strip().encode("utf-8", "surrogatepass")).digest()


@functools.cache
def not_letters() -> re.Pattern[str]:
    """White space and digits as Python knows them, and ASCII punctuation."""
    return re.compile(rf"[\s\d{re.escape(string.punctuation)}]+")


@functools.cache
def _not_letters_of_unicode() -> re.Pattern[str]:
    """White space and digits as Unicode 17 knows them, and ASCII punctuation."""
    others = rf"\d{_NEWER_DIGITS}{re.escape(string.punctuation)}"
    return re.compile(rf"(?:[{others}]|[^\S{_INFORMATION_SEPARATORS}])+")
