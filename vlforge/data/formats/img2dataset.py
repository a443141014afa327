"""img2dataset's shards: tars of pictures, their fields as json and parquet, counts as json."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from msgspec.structs import replace

from vlforge.data.formats.webdataset import picture_members, read_groups
from vlforge.data.images import header_size
from vlforge.data.json_lines import decode
from vlforge.data.json_rows import ESCAPE, with_extra
from vlforge.data.new_folder import NewFolder, write_error
from vlforge.data.plain_rows import OWN
from vlforge.data.plain_tables import plain_table, read_rows
from vlforge.data.records import Fault, Holds, Record, Unfit, caption_of
from vlforge.data.shards import Group, first_shard, groups_of, shard_paths
from vlforge.data.tables import has_pyarrow, needs_pyarrow
from vlforge.data.tars import TarFile
from vlforge.types import DataError

META = (
    "caption", "url", "key", "status", "error_message", "width", "height", "original_width",
    "original_height", "exif", "sha256",
)  # fmt: skip
"""Fields of a sample, in the order in which they are written."""
_SIZES = frozenset({"width", "height", "original_width", "original_height"})
_OWN = OWN | frozenset(META)
_GIVEN = frozenset({"url", "original_width", "original_height", "exif", "sha256"})
"""Fields that a sample keeps when it is written again."""
_REST = frozenset(META) - {"caption", "key"}
"""Fields by which a sample that was read is known again."""


@dataclass(frozen=True)
class Img2datasetFormat:
    """img2dataset's output: `00000.tar` of jpg, json and txt, `00000.parquet`, `00000_stats.json`.

    Written are its layout, keys, and order of fields; other fields stand before
    them. Pictures stay as they are, whatever their size. An id that is not the
    key is a field `id`. A folder, one tar or `{00000..00012}.tar` is read.

    Args:
        number_sample_per_shard: samples per shard; decides the digits of keys, too.
        loses_question: write the answer of a single round and lose its question.
    """

    number_sample_per_shard: int = 10_000
    loses_question: bool = False

    name: ClassVar[str] = "img2dataset"
    holds: ClassVar[Holds] = Holds(document=True, extra=True, embedded=True)

    def recognises(self, path: Path) -> bool:
        """Whether a tar has its parquet or its stats beside it."""
        first = first_shard(path)
        if first is None or first.suffix != ".tar":
            return False
        beside = (f"{first.stem}_stats.json", f"{first.stem}.parquet")
        return any(first.with_name(name).is_file() for name in beside)

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The samples, streamed; behind those of a shard a `Fault` for each row without picture.

        A download that failed stands only in the shard's parquet.
        """
        for found in read_groups(_with_failed(path)):
            yield _own_again(found) if isinstance(found, Record) else found

    def writer(self, path: Path) -> Img2datasetWriter:
        """Writes a new folder of shards."""
        needs_pyarrow("img2dataset")
        return Img2datasetWriter(path, self)


class Img2datasetWriter:
    """Writes shards one after the other."""

    def __init__(self, path: Path, format_: Img2datasetFormat):
        if path.suffix in (".tar", ".parquet"):
            raise DataError(f"{path}: img2dataset's shards are a folder: name one")
        self._format = format_
        self._digits = math.ceil(math.log10(max(format_.number_sample_per_shard, 1)))
        self._new = NewFolder(path)
        self.count = 0
        self._shard = 0
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Img2datasetWriter:
        self._folder = self._new.__enter__()
        self._begin()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._end()
        except BaseException as failure:
            told = write_error(self._new.path, failure) if isinstance(failure, OSError) else failure
            self._close()
            self._new.__exit__(type(told), told, None)
            raise told from None
        self._close()
        self._new.__exit__(kind, error, trace)

    def _close(self) -> None:
        """Close the tar, which a full disk refuses once more."""
        with suppress(OSError):
            self._file.close()

    def write(self, record: Record) -> None:
        """Add one sample.

        Raises:
            Unfit: not one picture with a caption, or a picture whose size is not to be found.
            WriteError: the disk is full.
        """
        if len(record.pictures) != 1:
            raise Unfit(f"{len(record.pictures)} pictures where a sample has one")
        ((suffix, content),) = picture_members(record)
        caption = None
        if record.turns or record.chunks:
            caption = caption_of(record, loses_question=self._format.loses_question)
        size = header_size(content)
        try:
            if len(self._rows) == self._format.number_sample_per_shard:
                self._end()
                self._shard += 1
                self._begin()
            number = 10**self._digits * self._shard + len(self._rows)
            key = f"{number:0{self._digits + 5}d}"
            row = _meta(record, caption, key, size, content)
            self._tar.add(key + suffix, content)
            self._tar.add(f"{key}.json", json.dumps(row, indent=4, default=str).encode())
            if caption is not None:
                self._tar.add(f"{key}.txt", caption.encode("utf-8", errors="replace"))
        except OSError as failure:
            raise write_error(self._new.path, failure, len(content)) from None
        self._rows.append(row)
        self.count += 1

    def _begin(self) -> None:
        self._rows = []
        self._began = time.time()
        self._file: BinaryIO = (self._folder / f"{self._shard:05d}.tar").open("wb")
        self._tar = TarFile(self._file)

    def _end(self) -> None:
        """The end of the tar, its table and its counts."""
        self._tar.close()
        self._file.close()
        name = self._folder / f"{self._shard:05d}"
        columns = list(dict.fromkeys(key for row in self._rows for key in row))
        own = [key for key in META if key in columns or not self._rows]
        columns = [key for key in columns if key not in META] + own
        fixed = {key: "int32" if key in _SIZES else "string" for key in META}
        plain_table(name.with_suffix(".parquet"), columns, self._rows, fixed)
        now = time.time()
        count = len(self._rows)
        stats = {
            "count": count, "successes": count, "failed_to_download": 0, "failed_to_resize": 0,
            "duration": now - self._began, "start_time": self._began, "end_time": now,
            "status_dict": {"success": count} if count else {},
        }  # fmt: skip
        told = json.dumps(stats, indent=4)
        name.with_name(f"{name.name}_stats.json").write_text(told, encoding="utf-8")


def _with_failed(path: Path) -> Iterator[Group | Fault]:
    """The samples of all shards, and what their tables say of those that are not there."""
    for shard in shard_paths(path):
        yield from groups_of(shard)
        table = shard.with_suffix(".parquet")
        if shard.suffix == ".tar" and table.is_file() and not _is_whole(shard):
            yield from _failed(table)


def _is_whole(shard: Path) -> bool:
    """Whether the counts beside a shard say that no download failed."""
    try:
        told = decode(shard.with_name(f"{shard.stem}_stats.json").read_bytes())
    except (OSError, DataError):
        return False
    count = told.get("count") if isinstance(told, dict) else None
    return isinstance(count, int) and count == told.get("successes")


def _failed(path: Path) -> Iterator[Fault]:
    """The rows of a shard's table that have no picture."""
    if not has_pyarrow():
        yield Fault(0, "failed downloads are not listed without pyarrow", path.name)
        return
    try:
        for number, row in enumerate(read_rows(path, ("status", "url", "error_message")), 1):
            status = row.get("status")
            if isinstance(status, str) and status != "success":
                told = (f"{path.name} row {number}", row.get("url"), row.get("error_message"))
                yield Fault(0, f"not downloaded, {status}", ": ".join(map(str, filter(None, told))))
    except DataError as error:
        yield Fault(0, "a table cannot be read", str(error))


def _own_again(record: Record) -> Record:
    """The record with the fields that were written under another name; the key is its name's."""
    if ESCAPE not in "".join(record.extra):
        extra = {key: value for key, value in record.extra.items() if key != "key"}
        return Record(record.id, record.pictures, record.turns, record.chunks, extra, record.line)
    own = {f"extra.{key}": key for key in META if f"extra.{key}" in record.extra}
    extra = {key: value for key, value in record.extra.items() if key not in own and key != "key"}
    return replace(record, extra=extra | {key: record.extra[name] for name, key in own.items()})


def _fits(name: str, value: Any) -> bool:
    """Whether a value can stand in a field of img2dataset's."""
    return isinstance(value, int if name in _SIZES else str) and not isinstance(value, bool)


def _meta(
    record: Record, caption: str | None, key: str, size: tuple[int, int], content: bytes
) -> dict[str, Any]:
    """A sample's fields: further ones, then those that img2dataset writes."""
    extra: Mapping[str, Any] = record.extra
    was_sample = extra.keys() >= _REST
    kept = _GIVEN & extra.keys() if was_sample else {"url"}
    given = {name: extra[name] for name in kept if _fits(name, extra.get(name))}
    passed = given.keys() | (_REST - _GIVEN if was_sample else set())
    others = {name: value for name, value in extra.items() if name not in passed}
    row: dict[str, Any] = {} if record.id in (None, key) else {"id": record.id}
    width, height = size
    return with_extra(row, others, _OWN) | {
        "caption": caption,
        "url": given.get("url"),
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": given.get("original_width") or width,
        "original_height": given.get("original_height") or height,
        "exif": given.get("exif") or "{}",
        "sha256": given.get("sha256") or hashlib.sha256(content).hexdigest(),
    }
