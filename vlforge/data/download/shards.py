"""A shard on the disk: tar or folder, parquet and stats, which appear under their names when whole.

`NNNNN_stats.json` comes last: a shard that has it is done.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlforge.data.download.config import DownloadConfig
from vlforge.data.download.sources import VERIFY, Shard

SUCCESS, NOT_FETCHED, NOT_RESIZED = "success", "failed_to_download", "failed_to_resize"
_STATS = re.compile(r"(\d+)_stats\.json")
_OURS = re.compile(r"\d+(\.tar|\.parquet|_stats\.json)?")
_PART = re.compile(r"\.\d+\..*\.part")
_MOST_REASONS = 10_000
_SIZES = ("width", "height", "original_width", "original_height")


def key_of(shard: int, at: int, config: DownloadConfig) -> str:
    """The name of a sample: its shard's number and its place in it."""
    digits = math.ceil(math.log10(config.number_sample_per_shard))
    number = 10**digits * shard + at
    return f"{number:0{digits + config.oom_shard_count}d}"


def done_shards(folder: Path) -> set[int]:
    """Numbers of the shards that are whole."""
    names = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
    return {int(match[1]) for name in names if (match := _STATS.fullmatch(name))}


def clear_parts(folder: Path) -> None:
    """Remove what was begun and never finished."""
    _remove(folder, _PART)


def clear_shards(folder: Path) -> None:
    """Remove all shards, and nothing else that lies there."""
    _remove(folder, _OURS)


def _remove(folder: Path, named: re.Pattern[str]) -> None:
    for entry in list(os.scandir(folder)):
        if not named.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


class ShardWriter:
    """Takes the samples of one shard in order; `finish` makes them appear."""

    def __init__(self, folder: Path, shard: Shard, config: DownloadConfig):
        self.config, self.shard, self.folder = config, shard, folder
        self.name = config.shard_name(shard.number)
        self._has_caption = "caption" in shard.columns
        self._meta: dict[str, list[Any]] = {}
        self._parts: list[tuple[Path, Path]] = []
        main = self._part(f"{self.name}.tar" if self._is_tar else self.name)
        if self._is_tar:
            self._tar = tarfile.open(main, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        else:
            main.mkdir()
        self._main = main

    @property
    def _is_tar(self) -> bool:
        return self.config.output_format == "webdataset"

    def _part(self, name: str) -> Path:
        """Where what will be called `name` is written; processes do not share it."""
        part = self.folder / f".{self.shard.number}.{os.getpid()}.{name}.part"
        self._parts.append((part, self.folder / name))
        return part

    def add(self, at: int, meta: Mapping[str, Any], content: bytes | None) -> None:
        """One sample: what is known of it, and its picture where there is one."""
        given = self.shard.columns
        whole = {name: given[name][at] for name in given if name != VERIFY}
        whole |= {"key": key_of(self.shard.number, at, self.config), **meta}
        for name, value in whole.items():
            self._meta.setdefault(name, []).append(value)
        if content is None:
            return
        key = str(whole["key"])
        text = json.dumps(_plain(whole), indent=4, default=str)
        self._put(f"{key}.{self.config.encode_format}", content)
        self._put(f"{key}.json", text.encode("utf-8", "backslashreplace"))
        if self._has_caption:
            caption = whole["caption"]
            said = "" if caption is None else str(caption)
            self._put(f"{key}.txt", said.encode("utf-8", "backslashreplace"))

    def _put(self, name: str, data: bytes) -> None:
        if not self._is_tar:
            (self._main / name).write_bytes(data)
            return
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o444
        self._tar.addfile(member, io.BytesIO(data))

    def finish(self, stats: Mapping[str, Any]) -> None:
        """Write the tables and let everything appear, the stats last."""
        if self._is_tar:
            self._tar.close()
        write_table(self._part(f"{self.name}.parquet"), self._meta, self.shard, self.config)
        text = json.dumps(stats, indent=4)
        self._part(f"{self.name}_stats.json").write_text(text, encoding="utf-8")
        for part, path in self._parts:
            if part.is_file():
                with part.open("rb") as file:
                    os.fsync(file.fileno())
            if path.is_dir():
                shutil.rmtree(path)
            part.replace(path)

    def drop(self) -> None:
        """Remove what was written so far."""
        with suppress(OSError):
            if self._is_tar:
                self._tar.close()
        for part, _ in self._parts:
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """The value without what JSON has no word for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def write_table(
    path: Path, columns: Mapping[str, list[Any]], shard: Shard, config: DownloadConfig
) -> None:
    """One parquet row for each row of the list, also of those that failed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fixed = {name: pa.int32() for name in _SIZES}
    texts = ("url", "key", "status", "error_message", "exif", config.compute_hash)
    fixed |= dict.fromkeys(texts, pa.string())
    arrays = [
        _array(values, fixed.get(name) or shard.types.get(name)) for name, values in columns.items()
    ]
    pq.write_table(pa.table(arrays, names=list(columns)), path)


def _array(values: list[Any], kind: Any) -> Any:
    """The column in its type, or in one that fits all its values: text where nothing else does."""
    import pyarrow as pa

    is_typed = kind is not None and not pa.types.is_null(kind)
    try:
        found = pa.array(values, kind if is_typed else None)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        found = None
    if found is None or pa.types.is_null(found.type):
        # Text in every shard: a column that is empty here may not be so in the next one.
        return pa.array([_said(value) for value in values], pa.string())
    return found


def _said(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(_plain(value), default=str)
    return text.encode("utf-8", "backslashreplace").decode()


def stats_of(
    statuses: Counter[str], reasons: Counter[str], begin: float, end: float
) -> dict[str, Any]:
    """The numbers of a shard; reasons beyond the most frequent ones are counted together."""
    shown = dict(reasons.most_common(_MOST_REASONS))
    rest = sum(reasons.values()) - sum(shown.values())
    return {
        "count": sum(statuses.values()),
        "successes": statuses[SUCCESS],
        NOT_FETCHED: statuses[NOT_FETCHED],
        NOT_RESIZED: statuses[NOT_RESIZED],
        "duration": end - begin,
        "start_time": begin,
        "end_time": end,
        "status_dict": shown | ({"other reasons": rest} if rest else {}),
    }
