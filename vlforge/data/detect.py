"""Reading a dataset of any known format as samples, judged by its content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from vlforge.data.formats import dj, index, llava
from vlforge.data.json_lines import as_row, is_array, open_data, read_values
from vlforge.data.records import MARK, Fault, Format, Picture, Record, as_turns, with_marks
from vlforge.data.shards import TAR_NAMES, expand
from vlforge.types import DataError, Row, Sample

OnBad = Callable[[int, DataError], None]
"""Told the line (or place in the data) and what is wrong with it; the row is passed over."""
ROWS = ("dj", "llava")
"""Formats whose rows may stand in one file, each told by its own keys."""


def files_of_pattern(text: str) -> list[Path]:
    """The shards that `shards/{00000..00012}.tar` stands for and that are there; else none."""
    if "{" not in text or not text.endswith(TAR_NAMES):
        return []
    try:
        return [path for name in expand(text) if (path := Path(name)).is_file()]
    except (DataError, OSError):
        return []


def format_of(row: Any) -> Literal["dj", "llava"]:
    """Which of the two a row is written in.

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


def reader_of(path: Path, format_name: str = "auto") -> Format | None:
    """What reads the dataset; None for files of JSON rows that are told apart one by one.

    Raises:
        DataError: nothing is there, no format knows it, or no format has that name.
    """
    if format_name != "auto":
        found = index.find(format_name)
        return None if found.name in ROWS else found
    try:
        found = index.detect(path)
    except DataError:
        if path.exists():
            _refuse_unknown(path)
        # Rows that no format knows are told one by one, with their lines.
        return None
    return None if found.name in ROWS else found


def read_samples(
    path: str | Path,
    image_root: str | Path | None = None,
    *,
    format_name: str = "auto",
    on_bad: OnBad | None = None,
) -> Iterator[Sample]:
    """The samples of a dataset, in order, streamed.

    Pictures that are stored in the data come as their encoded bytes. A document
    becomes a question of its pictures and an answer of its text.

    Args:
        path: a dataset of any format, see `vlforge list formats`.
        image_root: where relative image paths start; the data's own folder by default.
        format_name: the format, where its content does not say it.
        on_bad: told of each row that cannot be a sample. Without it such a row raises.

    Raises:
        DataError: the data cannot be read; or, without `on_bad`, a bad row, with its line.
    """
    path = Path(path)
    reader = reader_of(path, format_name)
    found = _of_rows(path, image_root) if reader is None else _of(reader, path, image_root)
    for line, sample in found:
        if not isinstance(sample, DataError):
            yield sample
        elif on_bad is None:
            raise DataError(f"{path}:{line}: {sample}")
        else:
            on_bad(line, sample)


def sample_of(record: Record, place: str = "") -> Sample:
    """A record as a sample.

    Args:
        record: as a format reads it.
        place: the sample's id where the record has none.

    Raises:
        DataError: no words, marks that do not match the pictures, or a picture that is
            an address.
    """
    told = with_marks(replace(record, turns=as_turns(record), chunks=()))
    if not any(turn.text.replace(MARK, "").strip() for turn in told.turns):
        raise DataError("no text beside the pictures")
    if told.marks != len(told.pictures):
        raise DataError(f"{told.marks} image marks but {len(told.pictures)} pictures")
    number = place if record.id is None else str(record.id)
    return Sample(number, tuple(map(_source, told.pictures)), told.turns, record.extra)


def _source(picture: Picture) -> str | bytes:
    if picture.content is not None:
        return picture.content
    if "://" in picture.path:
        raise DataError(f"picture is an address: {picture.path} (vlforge download fetches it)")
    return picture.place


def _of(
    reader: Format, path: Path, image_root: str | Path | None
) -> Iterator[tuple[int, Sample | DataError]]:
    home = None if image_root is None else os.path.abspath(image_root)
    for number, found in enumerate(reader.read(path), 1):
        if isinstance(found, Fault):
            value = f": {found.value}" if found.value else ""
            yield found.line or number, DataError(f"{found.reason}{value}")
            continue
        if home is not None:
            moved = (replace(p, root=home) if p.root else p for p in found.pictures)
            found = replace(found, pictures=tuple(moved))
        try:
            yield number, sample_of(found, str(number - 1))
        except DataError as error:
            yield found.line or number, error


def _of_rows(path: Path, image_root: str | Path | None) -> Iterator[tuple[int, Sample | DataError]]:
    root = str(Path(image_root if image_root is not None else path.parent).absolute())
    for number, value in read_values(path):
        try:
            if isinstance(value, DataError):
                raise value
            yield number, _sample(as_row(value), root, str(number - 1))
        except DataError as error:
            yield number, error


def _sample(row: Row, root: str, place: str) -> Sample:
    to_sample = llava.to_sample if format_of(row) == "llava" else dj.to_sample
    return to_sample(row, root, place)


def _refuse_unknown(path: Path) -> None:
    """Raise for what no format knows, rows of JSON apart."""
    hint = "name its format (vlforge list formats has them)"
    if path.is_dir():
        raise DataError(f"dataset {path} is a folder without data known here: {hint}")
    if not _is_json(path):
        raise DataError(f"dataset {path} is in no format known here: {hint}")


def _is_json(path: Path) -> bool:
    """Whether the file begins as a JSON array or object does, or is empty."""
    if is_array(path):
        return True
    with open_data(path) as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return not head or head[:1] == b"{"
