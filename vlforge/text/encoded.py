"""The result of encoding a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlforge.types import IGNORE_INDEX, IMAGE_INDEX


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Token ids and labels of one conversation.

    ids: -200 stands for each image.
    labels: as long as `ids`; -100 where nothing is supervised.
    length: tokens before truncation, an image counting as one.
    mismatch: what a reference system would print as it masks the whole row.
    """

    ids: list[int]
    labels: list[int]
    length: int
    mismatch: str | None = None

    @classmethod
    def cut(cls, ids: Sequence[int], labels: Sequence[int], max_length: int | None) -> EncodedText:
        """The first `max_length` tokens."""
        return cls(list(ids[:max_length]), list(labels[:max_length]), len(ids))

    @property
    def supervised(self) -> int:
        """Tokens that carry a loss."""
        return sum(label not in (IGNORE_INDEX, IMAGE_INDEX) for label in self.labels)

    @property
    def images(self) -> int:
        """Images left after truncation."""
        return self.ids.count(IMAGE_INDEX)

    @property
    def loss_problem(self) -> str | None:
        """Why the row teaches nothing, in one line; None where it does."""
        if self.supervised:
            return None
        if self.mismatch:
            return f"all labels masked: {self.mismatch}"
        if self.length > len(self.ids):
            return f"all labels lost: {self.length} tokens cut to {len(self.ids)}"
        return "no supervised token: the conversation holds no answer"
