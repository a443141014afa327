"""Captions of single pictures, for operators that compare them with a text or merge both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.batch import Batch, drop_of
from vlforge.ops.synthesis.writing import request_key
from vlforge.types import Caption, Drop, Refusal

if TYPE_CHECKING:
    from PIL.Image import Image

_PORTION = 32


def captions_of(
    batch: Batch,
    op: str,
    model: str,
    files: Sequence[Sequence[ImageFile]],
    count: int = 1,
    prompt: str | None = None,
) -> list[list[list[Caption]] | Drop]:
    """Candidates for every picture of some rows; portions of them are decoded at once.

    Args:
        files: per row of the batch the pictures to caption, none for a row left alone.

    Returns:
        Per row a list of candidates per picture, or why one of its pictures has none.
    """
    found: list[list[list[Caption]] | Drop] = [[] for _ in files]
    asked = [(at, number) for at, row in enumerate(files) for number in range(len(row))]
    for start in range(0, len(asked), _PORTION):
        images: list[Image] = []
        usable: list[tuple[int, int]] = []
        for at, number in asked[start : start + _PORTION]:
            try:
                images.append(batch.files.rgb(files[at][number]))
                usable.append((at, number))
            except ImageError as error:
                found[at] = drop_of(error)
        if not usable:
            continue
        seed, items = batch.context.seed, batch.items
        keys = [request_key(seed, op, items[at].uid, number) for at, number in usable]
        captioner = batch.context.captioner(model, op)
        written = captioner.caption(images, [prompt] * len(images), count, keys)
        for (at, _), candidates in zip(usable, written, strict=True):
            row = found[at]
            if isinstance(candidates, Refusal):
                found[at] = Drop("", candidates.reason, None, candidates.detail or None)
            elif isinstance(row, list):
                row.append(candidates)
    return found
