"""Rows with made jpegs, about as photographs of a web data set weigh and decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_parts.pictures import picture

TEXT = "<__dj__image> alt text {number} <|__dj__eoc|>"


def write_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """`count` rows of one picture each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        path.write_bytes(picture(number))
        rows.append({"text": TEXT.format(number=number), "images": [str(path)]})
    return rows
