"""Lengths and padded batches as LLaVA, MGM and XTuner have them.

Their samplers group rows by these lengths, which are estimates: LLaVA and MGM count words
and take 128 for a picture, XTuner counts ids with a picture as one.

Sources: haotian-liu/LLaVA@c121f04 and dvlab-research/MGM@769820c (LazySupervisedDataset,
DataCollatorForSupervisedDataset), InternLM/xtuner@v0.1.23 (LLaVADataset, default_collate_fn).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlforge.types import IGNORE_INDEX, Turn

PICTURE_WORDS = 128
"""What a picture counts in LLaVA's and MGM's lengths, but not in their modality lengths."""

Row = tuple[Sequence[int], Sequence[int]]
"""Ids and labels."""


def llava_length(turns: Sequence[Turn], has_image: bool) -> int:
    """A row's length where rows are grouped by length alone."""
    return _words(turns) + (PICTURE_WORDS if has_image else 0)


def llava_modality_length(turns: Sequence[Turn], has_image: bool) -> int:
    """A row's length where pictures and text alone are kept apart: below 0 without a picture."""
    return _words(turns) if has_image else -_words(turns)


def xtuner_modality_length(ids: Sequence[int], has_image: bool) -> int:
    """The same in XTuner, of ids."""
    return len(ids) if has_image else -len(ids)


def _words(turns: Sequence[Turn]) -> int:
    return sum(len(turn.text.split()) for turn in turns)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of one length.

    mask: whether a token is seen. positions: counted through the padding.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    mask: list[list[bool]]
    positions: list[list[int]]


def llava_batch(rows: Sequence[Row], pad_id: int, max_length: int) -> TokenBatch:
    """Rows padded on the right, then cut.

    The mask goes by the id: a token of a text that has the padding's id is not seen either.
    """
    batch = _padded(rows, pad_id, max_length)
    mask = [[token != pad_id for token in row] for row in batch.ids]
    return TokenBatch(batch.ids, batch.labels, mask, batch.positions)


def xtuner_batch(rows: Sequence[Row], pad_id: int = 0) -> TokenBatch:
    """Rows padded on the right; the mask goes by their lengths."""
    return _padded(rows, pad_id, None)


def _padded(rows: Sequence[Row], pad_id: int, max_length: int | None) -> TokenBatch:
    longest = max(len(ids) for ids, _ in rows)
    batch = TokenBatch([], [], [], [])
    for ids, labels in rows:
        gap = longest - len(ids)
        batch.ids.append([*ids, *[pad_id] * gap][:max_length])
        batch.labels.append([*labels, *[IGNORE_INDEX] * gap][:max_length])
        batch.mask.append([*[True] * len(ids), *[False] * gap][:max_length])
        batch.positions.append(list(range(longest))[:max_length])
    return batch
