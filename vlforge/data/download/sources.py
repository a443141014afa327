"""Lists of addresses, cut into shards while they are read: txt, csv, tsv, JSON, parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.data.download.config import RESERVED, DownloadConfig
from vlforge.data.json_arrays import READ_FAULTS
from vlforge.data.json_lines import as_row, open_data, read_values
from vlforge.types import DataError, RecipeError

FORMATS = ("txt", "csv", "tsv", "json", "jsonl", "parquet")
_PACKED = (".gz", ".zst")
_URL_NAMES = ("url", "image_url", "img_url", "urls")
_CAPTION_NAMES = ("caption", "text")
_FIELD_BYTES = 16 << 20
RENAMED = "input_"
"""What a column of the list gets before its name where the output has one of that name."""


@dataclass
class Shard:
    """A part of the list: for each column its name and values; `faults` say what is wrong where.

    `types` are the columns' Arrow types where the list has any.
    """

    number: int
    columns: dict[str, list[Any]]
    faults: dict[int, str] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many rows it has."""
        return len(self.columns["url"])


@dataclass(frozen=True)
class Columns:
    """Which column of the list becomes which of the output, in the output's order."""

    of: dict[str, str]
    """Name in the output -> name in the list; `url` is last, `caption` before it."""
    verify: str = ""
    """The column to check hashes by."""


_Piece = tuple[list[dict[str, Any] | DataError], dict[str, Any]]
"""Rows, and their columns' Arrow types."""


def files_of(config: DownloadConfig, source: Path) -> list[Path]:
    """The files of the list, in order.

    Raises:
        DataError: there is none.
    """
    if not source.exists():
        raise DataError(f"list {source} does not exist: check the path")
    if not source.is_dir():
        return [source]
    wanted = FORMATS if config.input_format == "auto" else (config.input_format.split(".")[0],)
    found = sorted(p for p in source.iterdir() if p.is_file() and _suffix(p) in wanted)
    if not found:
        raise DataError(f"{source} holds no list of addresses ({', '.join(wanted)})")
    return found


def format_of(config: DownloadConfig, path: Path) -> str:
    """How the file is written.

    Raises:
        RecipeError: neither its name nor the option says.
    """
    found = _suffix(path) if config.input_format == "auto" else config.input_format
    found = found.removesuffix(".gz")
    if found not in FORMATS:
        given = "file's name ends in" if config.input_format == "auto" else "input_format is"
        raise RecipeError(f"{path}: {given} {found!r}; input_format: one of {', '.join(FORMATS)}")
    return found


def _suffix(path: Path) -> str:
    name = path.name.lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix.removeprefix(".")


def count_rows(config: DownloadConfig, path: Path) -> int:
    """How many rows the file has."""
    if format_of(config, path) == "parquet":
        with _opened(path) as file:
            return int(file.metadata.num_rows)
    return sum(len(rows) for rows, _ in _pieces(config, path))


def shards(
    config: DownloadConfig, path: Path, first: int, skip: Callable[[int], bool]
) -> Iterator[Shard | int]:
    """The file's shards, numbered from `first`; of those to skip only how many rows they have.

    Raises:
        DataError: the file cannot be read, or has no column of addresses.
    """
    chosen: Columns | None = None
    number = first
    for rows, types in _cut(_pieces(config, path), config.number_sample_per_shard):
        if chosen is None:
            names = _names(rows, types)
            if not names and isinstance(rows[0], DataError):
                raise DataError(f"list {path} holds no rows: {rows[0]}")
            chosen = columns_of(config, path, names)
        yield len(rows) if skip(number) else _shard(number, rows, chosen, types)
        number += 1


def columns_of(config: DownloadConfig, path: Path, names: list[str]) -> Columns:
    """Which of the list's columns are taken.

    Raises:
        RecipeError: one that was named is not there; names those that are.
    """
    url = _found(config.url_col, names, _URL_NAMES)
    if not url:
        raise RecipeError(_absent(path, "url_col", config.url_col, names))
    caption = _found(config.caption_col, names, _CAPTION_NAMES)
    if not caption and config.caption_col not in ("auto", "none"):
        raise RecipeError(_absent(path, "caption_col", config.caption_col, names))
    verify = config.verify_hash[0] if config.verify_hash else ""
    for name in (verify, *config.save_additional_columns):
        if name and name not in (*names, "all", "none"):
            raise RecipeError(_absent(path, "a column named", name, names))
    extra = list(config.save_additional_columns)
    if extra == ["all"]:
        extra = [name for name in names if name not in (url, caption, verify)]
    of = {RENAMED * (n in RESERVED) + n: n for n in extra if n != "none"}
    if caption:
        of["caption"] = caption
    of["url"] = url
    return Columns(of, verify)


def _found(wanted: str, names: list[str], usual: tuple[str, ...]) -> str:
    if wanted != "auto":
        return wanted if wanted in names else ""
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), "")


def _absent(path: Path, option: str, wanted: str, names: list[str]) -> str:
    shown = ", ".join(names[:20]) or "none"
    what = f"no column of addresses; name it by {option}" if wanted == "auto" else (
        f"{option} is {wanted!r}, which is no column"
    )  # fmt: skip
    return f"{path}: {what}. Columns: {shown}"


def _names(rows: list[dict[str, Any] | DataError], types: dict[str, Any]) -> list[str]:
    if types:
        return list(types)
    found: dict[str, None] = {}
    for row in rows:
        if isinstance(row, dict):
            found.update(dict.fromkeys(row))
    return list(found)


def _shard(
    number: int, rows: list[dict[str, Any] | DataError], chosen: Columns, types: dict[str, Any]
) -> Shard:
    broken = {at: row for at, row in enumerate(rows) if isinstance(row, DataError)}
    faults = {at: f"no row: {error}"[:200] for at, error in broken.items()}
    whole: list[dict[str, Any]] = [{} if isinstance(row, DataError) else row for row in rows]
    columns = {new: [row.get(old) for row in whole] for new, old in chosen.of.items()}
    columns["url"] = [_address(value) for value in columns["url"]]
    if chosen.verify:
        columns[VERIFY] = [row.get(chosen.verify) for row in whole]
    for at, address in enumerate(columns["url"]):
        if not address:
            faults.setdefault(at, "no address")
    known = {new: types[old] for new, old in chosen.of.items() if old in types}
    return Shard(number, columns, faults, known)


VERIFY = "\0verify"
"""The column of a shard that holds the hashes to check by."""


def _address(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _cut(pieces: Iterator[_Piece], size: int) -> Iterator[_Piece]:
    """The same rows in pieces of `size`, the last one shorter."""
    held: list[dict[str, Any] | DataError] = []
    known: dict[str, Any] = {}
    for rows, types in pieces:
        held += rows
        known = types or known
        while len(held) >= size:
            yield held[:size], known
            held = held[size:]
    if held:
        yield held, known


_PIECE = 1000
_TABLE_FAULTS: tuple[type[Exception], ...] = (csv.Error, *READ_FAULTS)


def _pieces(config: DownloadConfig, path: Path) -> Iterator[_Piece]:
    kind = format_of(config, path)
    if kind == "parquet":
        yield from _parquet(path)
        return
    if kind == "txt":
        rows = _lines(path)
    elif kind in ("csv", "tsv"):
        rows = _table(path, "\t" if kind == "tsv" else ",")
    else:
        rows = _json(path)
    while piece := list(islice(rows, _PIECE)):
        yield piece, {}


def _json(path: Path) -> Iterator[dict[str, Any] | DataError]:
    for _, value in read_values(path):
        if isinstance(value, DataError):
            yield value
            continue
        try:
            yield as_row(value)
        except DataError as error:
            yield error


def _text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_data(path), encoding="utf-8-sig", errors="replace", newline="")


def _lines(path: Path) -> Iterator[dict[str, Any] | DataError]:
    """One address a line."""
    with _text(path) as file:
        try:
            yield from ({"url": line.strip()} for line in file if not line.isspace())
        except READ_FAULTS as error:
            yield DataError(f"the list breaks off: {error}")


def _table(path: Path, delimiter: str) -> Iterator[dict[str, Any] | DataError]:
    """Rows by the names in the first line; values as text."""
    csv.field_size_limit(_FIELD_BYTES)
    with _text(path) as file:
        lines = csv.reader(file, delimiter=delimiter)
        try:
            filled = filter(None, lines)
            names = next(filled, [])
            for values in filled:
                yield _row(names, values, lines.line_num)
        except _TABLE_FAULTS as error:
            yield DataError(f"line {lines.line_num}: {error}")


def _row(names: list[str], values: list[str], line: int) -> dict[str, Any] | DataError:
    if len(values) > len(names):
        return DataError(f"line {line}: {len(values)} fields under {len(names)} names")
    return dict(zip(names, values, strict=False))


def _parquet(path: Path) -> Iterator[_Piece]:
    with _opened(path) as file:
        types = {field.name: field.type for field in file.schema_arrow}
        for batch in file.iter_batches(_PIECE):
            yield batch.to_pylist(), types


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A parquet file; what is wrong with it in one line."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"list {path} cannot be read: {first}") from None
