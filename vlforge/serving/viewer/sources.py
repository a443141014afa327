"""What the viewer shows: datasets, and the kept, dropped and changed rows of `vlforge process`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlforge.data.formats import index as formats
from vlforge.data.formats.dj import DjFormat
from vlforge.data.json_lines import as_row, decode, encode
from vlforge.data.json_rows import JsonRows
from vlforge.data.records import MARK, Fault, Format, Picture, Record
from vlforge.serving.viewer.index import Place, RowIndex
from vlforge.serving.viewer.spool import Spool
from vlforge.types import DataError

Kind = Literal["data", "kept", "dropped", "changed"]
STATS = "__dj__stats__"
"""Data-Juicer's field for a row's statistics."""
_BOM = b"\xef\xbb\xbf"
_PACKED = (".gz", ".zst")


@dataclass(frozen=True)
class Fate:
    """Why a row was dropped: by which operator, and the statistic beyond which bound."""

    op: str
    reason: str
    stat: str = ""
    value: Any = None
    bound: str = ""


@dataclass(frozen=True)
class Item:
    """One row: a record, or why it is none; its statistics and what became of it."""

    number: int
    line: int
    record: Record | None
    fault: Fault | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)
    fate: Fate | None = None
    after: str | None = None
    """The text that a changed row came to."""


ReadRow = Callable[[dict[str, Any], str, int], Record]


class Source:
    """Rows that can be looked up by number and streamed."""

    def __init__(
        self,
        name: str,
        title: str,
        path: Path,
        kind: Kind = "data",
        *,
        format_: Format | None = None,
        stats: Path | None = None,
    ):
        self.name, self.title, self.path, self.kind = name, title, path, kind
        self.spool: Spool | None = None
        self.stats: RowIndex | None = None
        self._root = os.path.abspath(path.parent)
        if format_ is None:
            format_ = DjFormat()
        self.format_name = format_.name
        if isinstance(format_, JsonRows) and _is_seekable(path, format_):
            self.index = RowIndex(path)
            self._record: ReadRow = format_.record
        else:
            self.spool = Spool(path, format_)
            self.index = self.spool.index
            self._record = self.spool.record
        if stats is not None and stats.is_file():
            self.stats = RowIndex(stats)

    def start(self) -> None:
        """Begin to find the rows, in threads of their own."""
        (self.spool or self.index).start()
        if self.stats is not None:
            self.stats.start()

    def build(self) -> None:
        """Find all rows now."""
        self.spool.fill() if self.spool is not None else self.index.build()
        if self.stats is not None:
            self.stats.build()

    def __len__(self) -> int:
        """Rows found so far."""
        return len(self.index)

    def items(self, start: int, count: int) -> list[Item]:
        """Some rows that follow one another."""
        found = self.index.take(start, count)
        beside = self._stats(start, len(found))
        return [
            self.item(number, place, data, beside.get(number))
            for number, (place, data) in enumerate(found, start)
        ]

    def sift(
        self, start: int, count: int, may_be: Callable[[bytes], bool]
    ) -> tuple[int, list[Item]]:
        """How many rows were looked at from `start`, and those of them whose bytes `may_be`.

        None whose statistics are not found yet.
        """
        if self.stats is not None and not self.stats.is_complete:
            count = min(count, len(self.stats) - start)
        found = self.index.take(start, count)
        wanted = [(n, *row) for n, row in enumerate(found, start) if may_be(row[1])]
        beside = self._stats(start, len(found)) if wanted else {}
        return len(found), [self.item(n, place, data, beside.get(n)) for n, place, data in wanted]

    @property
    def is_complete(self) -> bool:
        """Whether all rows are found."""
        return self.index.is_complete and (self.stats is None or self.stats.is_complete)

    def _stats(self, start: int, count: int) -> dict[int, bytes]:
        if self.stats is None or (self.is_complete and len(self.stats) != len(self.index)):
            return {}
        return {n: data for n, (_, data) in enumerate(self.stats.take(start, count), start)}

    def item(self, number: int, place: Place, data: bytes, beside: bytes | None = None) -> Item:
        """One row as it stands in the file, read."""
        try:
            row = as_row(decode(data.removeprefix(_BOM)))
            if self.kind == "dropped":
                return self._dropped(number, row)
            if self.kind == "changed":
                return self._changed(number, place, row)
            record = self._record(row, self._root, place.line)
        except DataError as error:
            return Item(number, place.line, None, _fault_of(error, place.line, data))
        return Item(number, place.line, record, stats=_stats_of(record, beside))

    def _dropped(self, number: int, row: dict[str, Any]) -> Item:
        fate = Fate(
            str(row.get("op")),
            str(row.get("reason")),
            str(row.get("stat") or ""),
            row.get("value"),
            str(row.get("bound") or ""),
        )
        line = row.get("line") if isinstance(row.get("line"), int) else number + 1
        stats = {fate.stat: fate.value} if fate.stat else {}
        try:
            record = self._record(as_row(row.get("row")), self._root, line)
        except DataError:
            fault = Fault(line, fate.reason, _shown(row.get("row")))
            return Item(number, line, None, fault, stats, fate)
        given = record.extra.get(STATS)
        stats = {**given, **stats} if isinstance(given, dict) else stats
        return Item(number, line, record, None, stats, fate)

    def _changed(self, number: int, place: Place, row: dict[str, Any]) -> Item:
        before, after = (_text_of(row.get(key)) for key in ("before", "after"))
        record = Record(row.get("id"), (), (), (before,), {}, place.line)
        fate = Fate(str(row.get("op")), "changed")
        return Item(number, place.line, record, fate=fate, after=after)

    def picture(self, number: int, which: int) -> Picture | None:
        """Picture `which` of a row, with its bytes where the data holds them.

        Raises:
            DataError: the disk had no room for its bytes.
        """
        found = self.index.take(number, 1)
        if not found or which < 0:
            return None
        place, data = found[0]
        record = self.item(number, place, data).record
        if record is None or which >= len(record.pictures):
            return None
        picture = record.pictures[which]
        content = self.spool.content(decode(data), which) if self.spool else picture.content
        return Picture(picture.path, picture.root, content)

    def close(self) -> None:
        """Let go of files, and of what was written for the viewer."""
        self.index.close()
        if self.spool is not None:
            self.spool.close()
        if self.stats is not None:
            self.stats.close()


def open_sources(path: Path, format_name: str = "") -> list[Source]:
    """The dataset at `path`; of a folder of `vlforge process` its kept, dropped, changed rows.

    Raises:
        DataError: nothing is there, or no format knows it.
    """
    path = path.absolute()
    if not path.name:
        raise DataError(f"{path} is no dataset: name a file or folder in it")
    if _is_work_folder(path):
        return _work_sources(path, path / "data.jsonl", path.name)
    format_ = formats.find(format_name) if format_name else formats.detect(path)
    work = path.with_name(f"{_stem(path)}.process")
    if path.is_file() and _is_work_folder(work):
        return _work_sources(work, path, path.name, format_)
    stats = path.with_name(f"{_stem(path)}_stats.jsonl")
    return [Source("data", path.name, path, format_=format_, stats=stats)]


def _is_work_folder(path: Path) -> bool:
    return path.is_dir() and (path / "dropped.jsonl").is_file()


def _work_sources(
    folder: Path, data: Path, title: str, format_: Format | None = None
) -> list[Source]:
    found = []
    if data.is_file():
        kept = format_ or _format_or_dj(data)
        stats = folder / "stats.jsonl"
        found.append(Source("kept", title, data, "kept", format_=kept, stats=stats))
    reader = found[0] if found else None
    given = format_ or (_format_or_dj(reader.path) if reader else DjFormat())
    for kind in ("dropped", "changed"):
        path = folder / f"{kind}.jsonl"
        if path.is_file() and (kind == "dropped" or path.stat().st_size):
            lines = given if isinstance(given, JsonRows) else DjFormat()
            found.append(Source(kind, title, path, kind, format_=lines))
    return found


def _format_or_dj(path: Path) -> Format:
    """The format of the rows that an operator left; dj where not one is left to judge by."""
    try:
        return formats.detect(path)
    except DataError:
        return DjFormat()


def _is_seekable(path: Path, format_: JsonRows) -> bool:
    """Whether a row can be read from its place in the file, without those before it."""
    reads_by_row = type(format_).read is JsonRows.read
    return path.is_file() and path.suffix not in _PACKED and reads_by_row


def _stem(path: Path) -> str:
    return path.name.split(".")[0] if path.suffix in _PACKED else path.stem


def _stats_of(record: Record, beside: bytes | None) -> dict[str, Any]:
    """A row's statistics: those it carries, and those in the file beside it if they are its own."""
    given = record.extra.get(STATS)
    stats: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    if beside is None:
        return stats
    try:
        row = as_row(decode(beside))
    except DataError:
        return stats
    if "id" in row and row["id"] != record.id:
        return stats
    more = row.get("stats", row.get(STATS))
    return {**stats, **more} if isinstance(more, dict) else stats


def counts_of(record: Record) -> dict[str, int]:
    """What can be counted in any record."""
    texts = [turn.text for turn in record.turns] if record.turns else list(record.chunks)
    found = {"text_chars": sum(len(text.replace(MARK, "").strip()) for text in texts)}
    found["picture_count"] = len(record.pictures)
    if record.turns:
        found["turn_count"] = len(record.turns)
    return found


def _fault_of(error: DataError, line: int, data: bytes) -> Fault:
    reason, _, value = str(error).partition(": ")
    return Fault(line, reason, value or data[:2000].decode("utf-8", "replace"))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else encode(value)[:2000].decode("utf-8", "replace")


def _text_of(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    return _shown(value)
