"""MiniGPT-4's `convert_cc_sbu` and `convert_laion`: captions with links as TSV for a downloader."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from vlforge.data.convert import Drops
from vlforge.data.json_lines import as_row, read_values, whole_file
from vlforge.data.json_rows import fault_of
from vlforge.types import DataError, ProgressFn, Row, no_progress

CC_SBU = ("ccs_synthetic_filtered_large.json", "ccs_synthetic_filtered_large.tsv")
LAION = ("laion_synthetic_filtered_large.json", "laion_synthetic_filtered_large.tsv")
NEEDED = ("url", "caption")
_TOLD_EVERY = 1000


@dataclass
class Table:
    """What became of a list of captions: `read` is `written` and the sum of `dropped`.

    `drops` is the list of those that are not written, where there are any.
    """

    columns: list[str]
    read: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    drops: Path | None = None


def convert_cc_sbu(
    source: Path | str = CC_SBU[0],
    target: Path | str = CC_SBU[1],
    mode: Literal["by_name", "reference"] = "by_name",
    *,
    progress: ProgressFn = no_progress,
) -> Table:
    """Write a JSON list of captions and links as TSV.

    By name, a value goes into the column of its key, whatever the order of an
    item's keys; the header has all keys in the order in which they first come; white
    space inside a value is one blank; an item without url or caption is listed
    with its reason in `<target>.dropped.jsonl`; UTF-8 with `\\n`.

    `reference` writes MiniGPT-4's bytes: the header is the first item's keys,
    each row the values in that item's own order, quoted where needed, `\\r\\n`.

    Raises:
        DataError: a file cannot be read or written, or there is no item; with
            `reference` also the first item that is no object.
    """
    if mode not in ("by_name", "reference"):
        raise DataError(f"mode is {mode!r}: take by_name or reference")
    write = _by_name if mode == "by_name" else _as_reference
    return write(Path(source), Path(target), progress)


def convert_laion(
    source: Path | str = LAION[0],
    target: Path | str = LAION[1],
    mode: Literal["by_name", "reference"] = "by_name",
    *,
    progress: ProgressFn = no_progress,
) -> Table:
    """As `convert_cc_sbu`, for LAION's list."""
    return convert_cc_sbu(source, target, mode, progress=progress)


def _items(path: Path) -> Iterator[tuple[int, Row | DataError]]:
    for line, value in read_values(path):
        try:
            yield line, value if isinstance(value, DataError) else as_row(value)
        except DataError as error:
            yield line, error


def _as_reference(source: Path, target: Path, progress: ProgressFn) -> Table:
    with whole_file(target) as file, _text(file) as lines:
        writer = csv.writer(lines, delimiter="\t", quoting=csv.QUOTE_MINIMAL)
        table = Table([])
        for line, row in _items(source):
            if isinstance(row, DataError):
                raise DataError(f"{source}:{line}: {row}")
            if not table.read:
                table.columns = list(row)
                writer.writerow(row)
            _put(writer, list(row.values()), table)
            table.read += 1
            _tell(table, progress)
        _has_items(table, source)
    return table


def _by_name(source: Path, target: Path, progress: ProgressFn) -> Table:
    table = Table(_columns(source))
    drops = Drops(target.with_name(f"{target.name}.dropped.jsonl"))
    with drops, whole_file(target) as file, _text(file) as lines:
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
        writer.writerow(table.columns)
        for line, row in _items(source):
            table.read += 1
            try:
                values = _values(row, table.columns)
            except DataError as error:
                fault = fault_of(line, error)
                table.dropped[fault.reason] += 1
                drops.add(fault, fault)
            else:
                _put(writer, values, table)
            _tell(table, progress)
        _has_items(table, source)
    table.drops = drops.path if table.dropped else None
    return table


def _tell(table: Table, progress: ProgressFn) -> None:
    if table.read % _TOLD_EVERY == 0:
        progress(table.read, None, f"{table.written} written")


def _put(writer: Any, values: list[Any], table: Table) -> None:
    writer.writerow(values)
    table.written += 1


def _has_items(table: Table, source: Path) -> None:
    if not table.read:
        raise DataError(f"dataset {source} is empty: no caption to write")


def _columns(source: Path) -> list[str]:
    """All keys in the order in which they first come; those that a row must have come at least."""
    found: dict[str, None] = {}
    for _, row in _items(source):
        if not isinstance(row, DataError) and row.keys() - found.keys():
            found.update(dict.fromkeys(row))
    return list(found | dict.fromkeys(NEEDED))


def _values(row: Row | DataError, columns: list[str]) -> list[str]:
    if isinstance(row, DataError):
        raise row
    for key in NEEDED:
        value = row.get(key)
        if not isinstance(value, str) or (key == "url" and not value.strip()):
            raise DataError(f"no {key!r}")
    return [_one_line(row.get(key)) for key in columns]


def _one_line(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(str(value).split())


@contextmanager
def _text(file: IO[bytes]) -> Iterator[IO[str]]:
    """Text written into a file of bytes, which stays open behind it."""
    lines = io.TextIOWrapper(file, "utf-8", "surrogatepass", newline="")
    yield lines
    lines.detach()
