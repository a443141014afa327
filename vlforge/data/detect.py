"""Reading a dataset of any known format as samples, judged by its content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from vlforge.data.formats import dj, llava
from vlforge.data.json_lines import as_row, read_values
from vlforge.types import DataError, Row, Sample

Format = Literal["dj", "llava"]
OnBad = Callable[[int, DataError], None]
"""Told the line (or place in the array) and what is wrong with it; the row is passed over."""


def format_of(row: Any) -> Format:
    """Which format a row is written in.

    Raises:
        DataError: neither; names the keys that it has.
    """
    if isinstance(row, dict):
        if isinstance(row.get("conversations"), list):
            return "llava"
        if "text" in row:
            return "dj"
        found = ", ".join(map(repr, list(row)[:6])) or "no keys"
        raise DataError(f"neither 'text' (dj) nor 'conversations' (LLaVA): it has {found}")
    raise DataError(f"a {type(row).__name__} where an object is wanted")


def read_samples(
    path: str | Path, image_root: str | Path | None = None, *, on_bad: OnBad | None = None
) -> Iterator[Sample]:
    """The samples of a dj or LLaVA file, in order, streamed.

    Args:
        path: JSON lines, or one JSON array; the format is found row by row.
        image_root: where relative image paths start; the file's folder by default.
        on_bad: told of each row that cannot be a sample. Without it such a row raises.

    Raises:
        DataError: the file cannot be read; or, without `on_bad`, a bad row, with its line.
    """
    path = Path(path)
    root = str(Path(image_root if image_root is not None else path.parent).absolute())
    for number, value in read_values(path):
        try:
            if isinstance(value, DataError):
                raise value
            sample = _sample(as_row(value), root, str(number - 1))
        except DataError as error:
            if on_bad is None:
                raise DataError(f"{path}:{number}: {error}") from None
            on_bad(number, error)
        else:
            yield sample


def _sample(row: Row, root: str, place: str) -> Sample:
    to_sample = llava.to_sample if format_of(row) == "llava" else dj.to_sample
    return to_sample(row, root, place)
