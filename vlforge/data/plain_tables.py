"""parquet of plain rows, without pictures or records; by pyarrow, which is imported only here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import encode
from vlforge.data.tables import kind_of
from vlforge.types import DataError


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file: those of some columns that it has.

    Raises:
        DataError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            has = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=has):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name}: {str(error).partition(chr(10))[0]}") from None


def plain_table(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], fixed: Mapping[str, str]
) -> None:
    """Write rows as one parquet file; a column of mixed values becomes JSON.

    Args:
        path: the new file.
        columns: their order.
        rows: missing values are null.
        fixed: arrow types of columns that have one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = []
    for name in columns:
        values = [row.get(name) for row in rows]
        kinds = {kind_of("", value) for value in values if value is not None}
        kind = fixed.get(name)
        is_plain = len(kinds) == 1 and "" not in kinds
        if (kind == "string" and not kinds <= {"str"}) or (kind is None and not is_plain):
            values = [v if v is None else encode(v).decode() for v in values]
            kind = "string"
        arrays.append(pa.array(values, type=kind and pa.type_for_alias(kind)))
    pq.write_table(pa.table(arrays, names=list(columns)), path)
