"""Folders of Hugging Face's `datasets`: what `save_to_disk` writes, and parquet as on the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlforge.data.formats.parquet import parquet_paths
from vlforge.data.json_lines import as_row, decode
from vlforge.data.new_folder import NewFolder, write_error
from vlforge.data.records import Fault, Holds, Record
from vlforge.data.tables import (
    RowTable,
    features,
    needs_pyarrow,
    open_arrow_part,
    read_arrow_part,
    read_parquet_part,
    read_tables,
)
from vlforge.types import DataError

_INFO, _STATE, _SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
_MAX_JSON = 64 << 20


@dataclass(frozen=True)
class HfDatasetFormat:
    """A folder as `datasets.save_to_disk` writes it, or parquet files in folders as on the hub.

    Columns are read as those of parquet are; pictures are `{bytes, path}`. Of a
    folder with splits all are read, one after the other, unless `split` names
    one. Written is one dataset that `datasets.load_from_disk` opens. Neither
    needs the library `datasets`.

    Args:
        split: read this split alone.
        max_shard_rows: rows per arrow file.
    """

    split: str = ""
    max_shard_rows: int = 100_000

    name: ClassVar[str] = "hf_dataset"
    holds: ClassVar[Holds] = Holds(
        conversation=True, document=True, several_pictures=True,
        no_picture=True, extra=True, embedded=True,
    )  # fmt: skip

    def recognises(self, path: Path) -> bool:
        """Whether the folder has the files of `save_to_disk`, or parquet and no tars."""
        if not path.is_dir():
            return False
        if (path / _SPLITS).is_file() or all((path / n).is_file() for n in (_STATE, _INFO)):
            return True
        has_tars = next(path.glob("*.tar"), None) is not None
        return not has_tars and any(_hub_paths(path))

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The rows, streamed.

        Raises:
            DataError: no pyarrow, no such split, or no folder of either kind.
        """
        needs_pyarrow(self.name)
        root = os.path.abspath(path)
        if not path.is_dir():
            raise DataError(f"{path} is no folder of a dataset")
        if (path / _SPLITS).is_file() or (path / _STATE).is_file():
            yield from read_tables(self._saved_paths(path), read_arrow_part, root)
            return
        paths = [one for one in _hub_paths(path) if _is_split(path, one, self.split)]
        if not paths:
            of = f" of split {self.split!r}" if self.split else ""
            raise DataError(f"{path} holds no parquet files{of}")
        yield from read_tables(paths, read_parquet_part, root)

    def writer(self, path: Path) -> FolderTableWriter:
        """Writes a new folder."""
        needs_pyarrow(self.name)
        return FolderTableWriter(path, self.max_shard_rows)

    def _saved_paths(self, path: Path) -> list[Path]:
        """The arrow files, split by split."""
        if not (path / _SPLITS).is_file():
            return _arrow_paths(path)
        splits = _json(path / _SPLITS).get("splits")
        names = [one for one in splits if isinstance(one, str)] if isinstance(splits, list) else []
        if self.split and self.split not in names:
            raise DataError(f"{path} has no split {self.split!r}: it has {', '.join(names)}")
        chosen = [self.split] if self.split else names
        return [one for name in chosen for one in _arrow_paths(path / _plain_name(name))]


class FolderTableWriter:
    """Writes arrow files and the three descriptions beside them."""

    def __init__(self, path: Path, max_rows: int):
        self._new, self._max_rows = NewFolder(path), max_rows
        self._kinds: dict[str, str] = {}
        self._shards: list[Path] = []

    def __enter__(self) -> FolderTableWriter:
        self._folder = self._new.__enter__()
        place = self._folder / "data.arrow"
        self._table = RowTable(place, open_arrow_part, read_arrow_part, self._new.path)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                self._table.drop()
        except BaseException as failure:
            self._new.__exit__(type(failure), failure, None)
            if isinstance(failure, OSError):
                raise write_error(self._new.path, failure) from None
            raise
        self._new.__exit__(kind, error, trace)

    def write(self, record: Record) -> None:
        """Add one row.

        Raises:
            DataError: a picture cannot be read.
        """
        self._table.add(record)

    def _finish(self) -> None:
        count = max(1, -(-self._table.count // self._max_rows))
        names = [f"data-{at:05d}-of-{count:05d}.arrow" for at in range(count)]
        kinds = self._table.finish(max_rows=self._max_rows, names=names)
        digest = hashlib.sha256()
        for name in names:
            with (self._folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        _write_json(
            self._folder / _STATE,
            {
                "_data_files": [{"filename": name} for name in names],
                "_fingerprint": digest.hexdigest()[:16],
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": None,
            },
        )
        info = {"citation": "", "description": "", "features": features(kinds)}
        _write_json(self._folder / _INFO, info | {"homepage": "", "license": ""})


def _hub_paths(path: Path) -> list[Path]:
    return parquet_paths(path)


def _is_split(folder: Path, path: Path, split: str) -> bool:
    """Whether a file is of a split: by its folder's name or the word its own begins with."""
    parts = path.relative_to(folder).parts
    return not split or split in parts[:-1] or parts[-1].startswith((f"{split}-", f"{split}."))


def _arrow_paths(folder: Path) -> list[Path]:
    """The arrow files of one saved dataset.

    Raises:
        DataError: the state names none, or names beyond its folder.
    """
    state = _json(folder / _STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} holds chosen rows of another order: save it flattened")
    listed = state.get("_data_files")
    names = [
        one.get("filename") if isinstance(one, dict) else None
        for one in (listed if isinstance(listed, list) else [])
    ]
    return [folder / _plain_name(name) for name in names]


def _plain_name(name: Any) -> str:
    if not isinstance(name, str) or not name or name != os.path.basename(name) or name == "..":
        raise DataError(f"a dataset's description names {name!r}: not a file beside it")
    return name


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise DataError(f"{path} is too large to be a description")
        return as_row(decode(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    import json

    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
