"""Small operators of each kind that has to see all rows, and one that multiplies rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from vlforge.ops.base import CorpusMapper, Grouper, Grown, NearDedup, RowMapper
from vlforge.types import Drop


@dataclass(frozen=True, kw_only=True)
class FirstWordDedup(NearDedup):
    """Rows whose texts start with the same word are one cluster; empty texts stay."""

    @property
    def key_bytes(self) -> int:
        """A word cut to eight bytes."""
        return 8

    def keys(self, batch):
        """The first word; a Drop for a text that says bad."""
        found = []
        for text in batch.texts(self.text_key):
            words = text.encode().split()
            if b"bad" in words:
                found.append(Drop("", "says bad"))
            else:
                found.append(words[0][:8].ljust(8) if words else None)
        return found

    def firsts(self, keys):
        """The first place of each word."""
        first = {}
        return np.array([first.setdefault(bytes(key), at) for at, key in enumerate(keys)])


@dataclass(frozen=True, kw_only=True)
class CommonWordMapper(CorpusMapper):
    """Removes the words that stand in most rows."""

    def keys(self, batch):
        """The words of a row."""
        return [sorted(set(text.split())) for text in batch.texts(self.text_key)]

    def learn(self, keys):
        """Words in more than a third of the rows."""
        rows, counts = 0, Counter()
        for words in keys:
            rows += 1
            counts.update(words)
        return sorted(word for word, count in counts.items() if count * 3 > rows)

    def apply(self, batch, learned):
        """Rows without those words."""
        out = []
        for item, text in zip(batch.items, batch.texts(self.text_key), strict=True):
            left = " ".join(word for word in text.split() if word not in learned)
            out.append(item.row if left == text else {**item.row, self.text_key: left})
        return out


@dataclass(frozen=True, kw_only=True)
class ScoreGrouper(Grouper):
    """One batch row per score."""

    def key(self, item):
        """The score."""
        return item.row.get("score")

    def groups(self, keys):
        """Places per score, in order of appearance."""
        found = {}
        for at, key in enumerate(keys):
            found.setdefault(key, []).append(at)
        return list(found.values())


@dataclass(frozen=True, kw_only=True)
class WordPairMapper(RowMapper):
    """A row for every two words; a text of none is left as it is."""

    keeps: bool = False

    def apply(self, batch):
        """The parts."""
        out = []
        for item, text in zip(batch.items, batch.texts(self.text_key), strict=True):
            words = text.split()
            parts = [" ".join(words[at : at + 2]) for at in range(0, len(words), 2)]
            rows = tuple({**item.row, self.text_key: part} for part in parts)
            out.append(Grown(self.keeps, rows) if words else item.row)
        return out
