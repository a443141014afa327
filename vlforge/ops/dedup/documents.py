"""Keeping the first of equal texts."""

from __future__ import annotations

import hashlib
import re
import string
from dataclasses import dataclass

from vlforge.ops.base import Dedup
from vlforge.ops.batch import Batch
from vlforge.types import Drop

_NOT_LETTERS = re.compile(rf"\s+|\d+|[{re.escape(string.punctuation)}]")


@dataclass(frozen=True, kw_only=True)
class DocumentDeduplicator(Dedup):
    """Keep the first of rows with the same text.

    `lowercase` compares without case, `ignore_non_character` without white
    space, digits and ASCII punctuation.
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
        text = _NOT_LETTERS.sub("", text)
    return hashlib.md5(
        text.strip().encode("utf-8", "surrogatepass"), usedforsecurity=False
    ).digest()
