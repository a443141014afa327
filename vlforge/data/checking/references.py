"""Reading what other data is held against: benchmarks and pictures that a user names."""

from __future__ import annotations

import base64
import binascii
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlforge.data.formats import index
from vlforge.data.json_lines import read_values
from vlforge.data.records import Picture, Record
from vlforge.types import DataError, Turn

_WIDEST_CELL = 256 << 20
_FEWEST_BASE64 = 64
"""Shorter cells are the number of the row that has the picture, as in MMBench."""
_TEXTS = ("question", "text", "prompt", "hint")


def reference_records(given: str) -> Iterator[Record]:
    """The records of a benchmark or dataset; `PATH=FOLDER` says where its pictures lie.

    A table with named columns (`.tsv`, pictures in base64 as MMBench has them), questions
    as JSON (`.jsonl`, `.json` with `image` and `question` or `text`), a folder of pictures,
    or a dataset of any format that VLForge reads.

    Raises:
        DataError: it is not there, or nothing here reads it.
    """
    name, _, folder = given.partition("=")
    path = Path(name)
    if not path.exists():
        raise DataError(f"{name}: no such file or folder; it is what data is held against")
    if path.suffix == ".tsv" and {"image", "index"} & set(_columns(path)):
        yield from _of_table(path)
        return
    if path.suffix in (".json", ".jsonl") and _asks(path):
        yield from _of_values(path, folder or str(path.parent))
        return
    for found in index.detect(path).read(path):
        if isinstance(found, Record):
            yield _moved(found, folder)


def _asks(path: Path) -> bool:
    """Whether the first row is a question of an evaluation rather than a row of a dataset."""
    first = next(read_values(path), (0, None))[1]
    return isinstance(first, Mapping) and bool({"question_id", "question"} & first.keys())


def _moved(record: Record, folder: str) -> Record:
    if not folder:
        return record
    home = os.path.abspath(folder)
    pictures = [
        Picture(one.path, home, one.content) if one.content is None else one
        for one in record.pictures
    ]
    return Record(record.id, tuple(pictures), record.turns, record.chunks, line=record.line)


def _columns(path: Path) -> list[str]:
    with path.open("rb") as file:
        head = file.readline(1 << 16)
    return head.decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")


def _of_table(path: Path) -> Iterator[Record]:
    csv.field_size_limit(_WIDEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in enumerate(csv.DictReader(file, delimiter="\t"), 2):
                yield Record(
                    row.get("index"), _stored(row.get("image") or ""), _asked(row), line=line
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None


def _stored(cell: str) -> tuple[Picture, ...]:
    if len(cell) < _FEWEST_BASE64:
        return ()
    try:
        return (Picture(content=base64.b64decode(cell)),)
    except binascii.Error:
        return ()


def _of_values(path: Path, folder: str) -> Iterator[Record]:
    for line, row in read_values(path):
        if isinstance(row, Mapping):
            names = row.get("image") or row.get("images") or ()
            listed = [names] if isinstance(names, str) else names
            root = os.path.abspath(folder)
            pictures = tuple(Picture(name, root) for name in listed if isinstance(name, str))
            yield Record(row.get("question_id") or row.get("id"), pictures, _asked(row), line=line)


def _asked(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    texts = [row.get(name) for name in _TEXTS]
    return tuple(Turn("user", text) for text in texts if isinstance(text, str) and text.strip())
