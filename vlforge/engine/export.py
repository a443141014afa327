"""The kept rows as the recipe wants them: jsonl, json or parquet, in one file or in shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import decode, encode, read_values
from vlforge.engine.config import ProcessConfig
from vlforge.engine.lines import STATS
from vlforge.engine.outputs import cannot_write
from vlforge.types import DataError, RecipeError, Row

META = "__dj__meta__"
"""Data-Juicer's field for tags; it leaves with the statistics unless they are kept."""
TYPES = ("jsonl", "json", "parquet")
_CHUNK = 1 << 20

_STATS_KEY, _STATS_HEAD = b',"stats":', f'{{"{STATS}":'.encode()


def export_type(config: ProcessConfig) -> str:
    """The kind of file to write, from the key or from the end of the path.

    Raises:
        RecipeError: neither says one of the known kinds.
    """
    end = config.export_type or Path(config.export_path).suffix.lower().removeprefix(".")
    if end in TYPES:
        return end
    said = f"ends in {end!r}" if end else "has no ending"
    raise RecipeError(
        f"export_path {config.export_path} {said}: end it in .jsonl, .json or .parquet, "
        "or set export_type"
    )


def stats_path(target: Path) -> Path:
    """Where Data-Juicer leaves the statistics of an export."""
    return target.with_name(f"{target.stem}_stats.jsonl")


def export(work: Path, target: Path, config: ProcessConfig, roots: Sequence[str]) -> list[Path]:
    """Write the rows that a run left in `work`, and their statistics beside them.

    Each file is there in whole or not at all.

    Args:
        work: what `run_process` wrote.
        target: `export_path`; with `export_shard_size` the shards are named after it.
        config: the recipe.
        roots: the folders that relative picture paths started from, for `absolute_paths: false`.

    Returns:
        The files with rows, in order.

    Raises:
        DataError: no way to write, or rows that do not fit into a table.
        RecipeError: an unknown kind of file.
    """
    data = work / "data.jsonl"
    kind = export_type(config)
    shape = _Shape.of(config, roots, _holds(data, META))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files = _shards(data, target, kind, config)
        is_plain = shape.is_plain and not config.keep_hashes_in_res_ds
        if kind == "jsonl" and len(files) == 1 and is_plain:
            _copy(data, files[0][0])
        else:
            _write(data, files, kind, shape, config)
        _export_stats(work, stats_path(target), with_meta=shape.has_meta)
    except OSError as error:
        raise cannot_write(target, error) from None
    return [path for path, _ in files]


@dataclass(frozen=True)
class _Shape:
    """What is done to a row on its way out."""

    path_keys: tuple[str, ...]
    roots: tuple[str, ...]
    has_meta: bool
    keeps_meta: bool

    @classmethod
    def of(cls, config: ProcessConfig, roots: Sequence[str], has_meta: bool) -> _Shape:
        keys = (config.image_key, config.audio_key, config.video_key)
        cut = () if config.absolute_paths else tuple(sorted(roots, key=len, reverse=True))
        return cls(keys, cut, has_meta, config.keep_stats_in_res_ds)

    @property
    def is_plain(self) -> bool:
        """Whether rows go out as they are."""
        return not self.roots and (self.keeps_meta or not self.has_meta)

    def __call__(self, row: Row) -> Row:
        """The row as it is exported."""
        if self.has_meta and not self.keeps_meta:
            row.pop(META, None)
        for key in self.path_keys if self.roots else ():
            if isinstance(row.get(key), list):
                row[key] = [self._as_given(path) for path in row[key]]
        return row

    def _as_given(self, path: Any) -> Any:
        for root in self.roots:
            begin = root.rstrip(os.sep) + os.sep
            if isinstance(path, str) and path.startswith(begin):
                return path[len(begin) :]
        return path


def _holds(path: Path, word: str) -> bool:
    """Whether a word stands anywhere in a file.

    Read in chunks: a mapped file would count as this process's memory.
    """
    wanted, before = word.encode(), b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            seen = before + chunk
            if wanted in seen:
                return True
            before = seen[1 - len(wanted) :]
    return False


def _shards(data: Path, target: Path, kind: str, config: ProcessConfig) -> list[tuple[Path, int]]:
    """The files to write and the rows of each, of equal number but for one."""
    size = config.export_shard_size
    if size <= 0:
        return [(target, -1)]
    with data.open("rb") as file:
        rows = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))
    count = max(1, min(data.stat().st_size // size + 1, rows))
    each, left = divmod(rows, count)
    width = len(str(count)) + 1
    base = target.name.split(".")[0]
    names = [f"{base}-{at:0{width}d}-of-{count:0{width}d}.{kind}" for at in range(count)]
    return [(target.with_name(name), each + (at < left)) for at, name in enumerate(names)]


def _write(
    data: Path, files: Sequence[tuple[Path, int]], kind: str, shape: _Shape, config: ProcessConfig
) -> None:
    parts: list[tuple[Path, Path]] = []
    schema = None
    try:
        if kind == "parquet":
            from vlforge.engine.parquet import schema_of

            schema = schema_of(lambda: _shaped(data, shape, config), config)
        rows = _shaped(data, shape, config)
        for path, count in files:
            part = path.with_name(f".{path.name}.part")
            parts.append((part, path))
            _write_one(part, islice(rows, count) if count >= 0 else rows, kind, schema, config)
        for part, path in parts:
            part.replace(path)
    except BaseException:
        for part, _ in parts:
            part.unlink(missing_ok=True)
        raise


def _shaped(data: Path, shape: _Shape, config: ProcessConfig) -> Iterator[Row]:
    rows = _rows(data)
    if config.keep_hashes_in_res_ds:
        # Before paths are cut: hashes of pictures need the files.
        from vlforge.engine.hashes import with_hashes

        rows = with_hashes(rows, config)
    return map(shape, rows)


def _write_one(
    part: Path, rows: Iterable[Row], kind: str, schema: Any, config: ProcessConfig
) -> None:
    if kind == "parquet":
        from vlforge.engine.parquet import write_parquet

        write_parquet(part, rows, schema, config.export_extra_args)
        return
    with part.open("wb") as file:
        if kind == "jsonl":
            file.writelines(encode(row) + b"\n" for row in rows)
            return
        between = b"[\n"
        for row in rows:
            file.write(between + encode(row))
            between = b",\n"
        file.write(b"[]\n" if between == b"[\n" else b"\n]\n")


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for line in file:
            yield decode(line)


def _export_stats(work: Path, target: Path, *, with_meta: bool) -> None:
    """The statistics of the kept rows, with their tags where rows have any."""
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as file:
        if with_meta:
            rows = _rows(work / "data.jsonl")
            for _, value in read_values(work / "stats.jsonl"):
                told = {**_stats_line(value), META: next(rows).get(META)}
                file.write(encode(told) + b"\n")
        else:
            with (work / "stats.jsonl").open("rb") as lines:
                file.writelines(map(stats_alone, lines))
    part.replace(target)


def stats_alone(line: bytes) -> bytes:
    """A line of `stats.jsonl` as Data-Juicer has it, cut out rather than read where that is safe.

    An unescaped `,"stats":` is a key; where there is but one, it is ours, the last.
    """
    at = line.find(_STATS_KEY)
    if at > 0 and line.find(_STATS_KEY, at + 1) < 0:
        return _STATS_HEAD + line[at + len(_STATS_KEY) :]
    return encode(_stats_line(decode(line))) + b"\n"


def _stats_line(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"a line of statistics is {value!r:.80}, not an object")
    return {STATS: value.get("stats", {})}


def _copy(source: Path, target: Path) -> None:
    """A copy of `source` at `target`, there in whole or not at all."""
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
