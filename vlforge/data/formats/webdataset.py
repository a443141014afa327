"""webdataset: tars in which a sample is a picture, a json and a text of the same name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from msgspec.structs import replace

from vlforge.data.json_lines import as_row, decode, encode, whole_file
from vlforge.data.json_rows import fault_of
from vlforge.data.new_folder import NewFolder, write_error
from vlforge.data.placing import suffix_of
from vlforge.data.plain_rows import (
    any_caption,
    name_pictures,
    picture_names,
    record_of,
    row_of,
)
from vlforge.data.records import Fault, Holds, Record, Unfit
from vlforge.data.shards import TAR_NAMES, Group, first_shard, groups
from vlforge.data.tars import TarFile
from vlforge.types import DataError


@dataclass(frozen=True)
class WebdatasetFormat:
    """Tar shards with jpg, png or webp beside json and txt: a folder, a tar, `{00000..00012}.tar`.

    The json holds what the record holds (`caption`, or `conversations`, or
    `chunks`, and all other fields), the txt the caption where there is one.
    Several pictures are `KEY.0.jpg`, `KEY.1.jpg`. Members are read in the order
    in which they stand; names are keys, and members of other kinds, links and
    names that leave their folder are told and passed over.

    Args:
        max_count: samples per shard, where a folder is written.
    """

    max_count: int = 10_000

    name: ClassVar[str] = "webdataset"
    holds: ClassVar[Holds] = Holds(
        conversation=True, document=True, several_pictures=True,
        no_picture=True, extra=True, embedded=True,
    )  # fmt: skip

    def recognises(self, path: Path) -> bool:
        """Whether there is a tar."""
        return first_shard(path) is not None

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The records of all shards, streamed."""
        return read_groups(groups(path))

    def writer(self, path: Path) -> ShardsWriter:
        """Writes a folder of shards, or one tar where the name says so."""
        return ShardsWriter(path, self.max_count)


def read_groups(found: Iterable[Group | Fault]) -> Iterator[Record | Fault]:
    """The records of samples; their lines, and those of faults between them, are counted."""
    for line, group in enumerate(found, 1):
        if isinstance(group, Fault):
            yield replace(group, line=line)
            continue
        try:
            yield read_group(group, line)
        except DataError as error:
            yield fault_of(line, error)


def read_group(group: Group, line: int) -> Record:
    """The record of a sample's members.

    Raises:
        DataError: json or text that is none.
    """
    row: dict[str, Any] = {}
    text = None
    if group.json is not None:
        try:
            row = as_row(decode(group.json))
        except DataError as error:
            raise DataError(f"a sample's json cannot be read: {group.key}: {error}") from None
    if group.text is not None:
        try:
            text = group.text.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"a sample's text is not UTF-8: {group.key}") from None
    named, pictures = name_pictures(row, group.pictures)
    return record_of(named, pictures, text=text, name=group.key, line=line)


def picture_members(record: Record) -> list[tuple[str, bytes]]:
    """Suffix and bytes of each picture: `.jpg`, or `.0.jpg` and `.1.png` where there are several.

    Raises:
        Unfit: bytes of no known picture format.
    """
    members = []
    for at, picture in enumerate(record.pictures):
        content = picture.read()
        suffix = suffix_of(content)
        if suffix == ".bin":
            raise Unfit("a picture is of no format that is known by its first bytes")
        members.append((suffix if len(record.pictures) == 1 else f".{at}{suffix}", content))
    return members


class ShardsWriter:
    """Writes tars one after the other, each filled in the order of the records."""

    def __init__(self, path: Path, max_count: int):
        self.is_single = path.name.endswith(TAR_NAMES)
        if path.name.endswith(TAR_NAMES[1:]):
            raise DataError(f"{path}: tars are written unpacked: pictures are packed already")
        self.path, self.max_count = path, max_count
        self.count = 0
        self._stack = ExitStack()
        self._tar: TarFile | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> ShardsWriter:
        if self.is_single:
            self._tar = TarFile(self._stack.enter_context(whole_file(self.path)))
        else:
            self._folder = self._stack.enter_context(NewFolder(self.path))
            self._next()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None and self._tar is not None:
                self._tar.close()
            if self._file is not None:
                self._file.close()
        except OSError as failure:
            if kind is None:
                told = write_error(self.path, failure)
                self._stack.__exit__(type(told), told, None)
                raise told from None
        self._stack.__exit__(kind, error, trace)

    def write(self, record: Record) -> None:
        """Add one sample.

        Raises:
            Unfit: a picture that is none.
            WriteError: the disk is full.
        """
        members = picture_members(record)
        row = row_of(record)
        caption = any_caption(record)
        if caption is not None:
            row = {"id": row.pop("id"), "caption": caption, **row}
        row |= picture_names(record)
        members.append((".json", encode(row)))
        if caption is not None:
            members.append((".txt", caption.encode("utf-8", errors="replace")))
        try:
            self._add(members)
        except OSError as failure:
            size = sum(len(content) for _, content in members)
            raise write_error(self.path, failure, size) from None
        self.count += 1

    def _add(self, members: list[tuple[str, bytes]]) -> None:
        if self.count and not self.is_single and self.count % self.max_count == 0:
            self._next()
        assert self._tar is not None
        for suffix, content in members:
            self._tar.add(f"{self.count:09d}{suffix}", content)

    def _next(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.close()
        self._file = (self._folder / f"{self.count // self.max_count:05d}.tar").open("wb")
        self._tar = TarFile(self._file)
