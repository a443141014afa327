"""Whether pictures are in the text that is learned: the published baseline learns without."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vlforge.data.detect import read_samples
from vlforge.types import DataError, VLForgeError

ROWS = 2000
"""Rows of each file that are looked at; training itself refuses the others one by one."""


@dataclass(frozen=True)
class Spans:
    """Rows looked at, their pictures, and the tokens of a picture in the text."""

    rows: int
    pictures: int
    tokens: int


def check_spans(model: Path, files: tuple[Path, ...], template: str = "mgen_vl") -> Spans:
    """Encode the first rows as training does and count the pictures' places.

    Raises:
        DataError: a row with another number of places than pictures, or of no picture.
        ModelError: a model without tokenizer.
    """
    from vlforge.runs.row_lengths import stage_rows
    from vlforge.training.config import TrainConfig

    encode = stage_rows(TrainConfig(model=str(model), data="", template=template)).encode
    rows = pictures = tokens = 0
    for file in files:
        for sample in islice(read_samples(file), ROWS):
            try:
                spans = encode(sample, None).image_spans
            except VLForgeError as error:
                raise DataError(f"{file}: row {sample.id}: {error}") from None
            if len(spans) != len(sample.images) or not spans:
                raise DataError(
                    f"{file}: row {sample.id} has {len(sample.images)} pictures and {len(spans)} "
                    "places for them in its text: it would be learned without looking"
                )
            rows, pictures = rows + 1, pictures + len(spans)
            tokens = spans[0][1] - spans[0][0]
    return Spans(rows, pictures, tokens)
