"""Rows to a parquet file: columns typed as in a parquet input, else by all of their values."""

from __future__ import annotations

import base64
import datetime
import decimal
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.engine.inputs import named_parts, parts_of
from vlforge.engine.tables import ParquetFile, is_special
from vlforge.types import DataError, RecipeError, Row

_AT_ONCE = 1000
_GROUP_ROWS, _GROUP_BYTES = 100_000, 64 << 20


def schema_of(rows: Callable[[], Iterable[Row]], config: ProcessConfig) -> Any:
    """The Arrow schema that holds all rows, in order of appearance of their fields.

    A column of a parquet input keeps its type (dates, bytes, decimals) where all
    of its values still fit; other columns get the narrowest type that holds all.

    Args:
        rows: gives the rows anew at each call.
        config: the recipe, for its inputs.

    Raises:
        DataError: a field holds values that no one type can.
        RecipeError: the library is missing.
    """
    known = _input_types(config)
    while True:
        found: dict[str, Any] = {}
        misfit = _look_through(rows(), known, found)
        if misfit is None:
            return _arrow().schema(list((found or known).items()))
        del known[misfit]


def _look_through(
    rows: Iterable[Row], known: Mapping[str, Any], found: dict[str, Any]
) -> str | None:
    """Fill `found` with a type per field; or the field whose known type does not fit."""
    for batch in _batches(rows):
        for name in dict.fromkeys(name for row in batch for name in row):
            values = [row.get(name) for row in batch]
            if name not in known:
                found[name] = _wider(name, found.get(name), values)
            elif _fits(values, known[name]):
                found[name] = known[name]
            else:
                return name
    return None


def write_parquet(path: Path, rows: Iterable[Row], schema: Any, options: Mapping[str, Any]) -> None:
    """Write rows of a known schema."""
    pa = _arrow()
    from pyarrow import parquet as pq

    group_rows = int(options.get("row_group_size") or _GROUP_ROWS)
    compression = options.get("compression") or "snappy"
    held: list[Any] = []
    with pq.ParquetWriter(path, schema, compression=compression) as writer:
        for batch in _batches(rows, min(_AT_ONCE, group_rows)):
            columns = [
                pa.array([_typed(row.get(f.name), f.type) for row in batch], f.type) for f in schema
            ]
            held.append(pa.Table.from_arrays(columns, schema=schema))
            size = sum(table.nbytes for table in held)
            if sum(map(len, held)) >= group_rows or size >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(held), group_rows)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), group_rows)


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise RecipeError(
            "export_type parquet needs pyarrow: pip install 'vlforge[tables]'"
        ) from None
    return pyarrow


def _input_types(config: ProcessConfig) -> dict[str, Any]:
    """The columns of the first parquet file of the input, if there is one."""
    for path in (Path(named.path) for named in named_parts(config)):
        if path.suffix.lower() != ".parquet" and not path.is_dir():
            continue
        for part in parts_of(path, config, lambda _: None):
            if isinstance(part.reader, ParquetFile):
                return {field.name: field.type for field in part.reader.schema()}
    return {}


def _fits(values: list[Any], kind: Any) -> bool:
    pa = _arrow()
    try:
        pa.array([_typed(value, kind) for value in values], kind)
    except (pa.ArrowException, ValueError, TypeError, decimal.InvalidOperation):
        return False
    return True


def _wider(name: str, kind: Any, values: list[Any]) -> Any:
    """The narrowest type for `values` and all that `kind` holds."""
    pa = _arrow()
    try:
        fresh = pa.array(values).type
        if kind is None or kind.equals(fresh):
            return fresh
        pair = [pa.schema([(name, kind)]), pa.schema([(name, fresh)])]
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        raise DataError(
            f"field {name!r} holds values of several kinds, which a parquet column cannot: "
            "export jsonl"
        ) from None


def _typed(value: Any, kind: Any) -> Any:
    """What JSON made of a value, as Arrow takes it for the type."""
    import pyarrow.types as t

    if value is None or not (t.is_nested(kind) or is_special(kind)):
        return value
    if t.is_struct(kind):
        if not isinstance(value, Mapping) or set(value) - {f.name for f in kind}:
            raise ValueError("fields that the type has not")
        return {field.name: _typed(value.get(field.name), field.type) for field in kind}
    if t.is_map(kind):
        pairs = value.items() if isinstance(value, Mapping) else value
        return [(_typed(k, kind.key_type), _typed(v, kind.item_type)) for k, v in pairs]
    if t.is_nested(kind):
        return [_typed(item, kind.value_type) for item in value]
    for holds, read in _READERS:
        if getattr(t, holds)(kind):
            return read(value)
    return value


_READERS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("is_timestamp", datetime.datetime.fromisoformat),
    ("is_date", datetime.date.fromisoformat),
    ("is_time", datetime.time.fromisoformat),
    ("is_duration", lambda value: datetime.timedelta(seconds=value)),
    ("is_decimal", decimal.Decimal),
    ("is_binary", lambda value: base64.b64decode(value, validate=True)),
    ("is_large_binary", lambda value: base64.b64decode(value, validate=True)),
    ("is_fixed_size_binary", lambda value: base64.b64decode(value, validate=True)),
)


def _batches(rows: Iterable[Row], size: int = _AT_ONCE) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, size)):
        yield batch
