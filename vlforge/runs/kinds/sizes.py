"""How large a stage's input is, before and after it exists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlforge.recipe.references import split_reference
from vlforge.runs.job import Upstream

_SAMPLED_BYTES = 4 << 20
_UNKNOWN_ROWS = 1000
_PACKED = (".tar", ".parquet", ".gz", ".zst", ".arrow")
"""Files whose lines are no rows."""


def count_rows(path: str, inputs: Mapping[str, Upstream]) -> int:
    """Rows of a data file: counted (a large file by sample), or guessed from the stage before."""
    found = split_reference(path)
    if found is None:
        is_counted = Path(path).is_file() and not path.endswith(_PACKED)
        return _rows_in_file(Path(path)) if is_counted else _UNKNOWN_ROWS
    name, rest = found
    upstream = inputs.get(name)
    if upstream is None:
        return _UNKNOWN_ROWS
    if upstream.folder is not None and (upstream.folder / rest).is_file():
        return _rows_in_file(upstream.folder / rest)
    rows = upstream.settings.get(f"{Path(rest).stem}_rows")
    if isinstance(rows, int):
        return rows
    if isinstance(upstream.settings.get("dataset_path"), str):
        return count_rows(upstream.settings["dataset_path"], upstream.inputs)
    return _UNKNOWN_ROWS


def _rows_in_file(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_SAMPLED_BYTES)
    rows = head.count(b'"conversations"') if path.suffix == ".json" else head.count(b"\n")
    return int(rows * size / max(1, len(head)))
