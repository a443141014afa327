"""MiniGPT-4's second stage: a folder with `filter_cap.json` and `image/<image_id>.jpg`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any, ClassVar

from vlforge.data.json_blocks import read_members
from vlforge.data.json_layout import Fields, Layout
from vlforge.data.json_lines import encode
from vlforge.data.json_rows import records_of, rest_of, with_extra, without
from vlforge.data.new_folder import NewFolder, write_error
from vlforge.data.records import MARK, Fault, Holds, Picture, Record, Unfit, caption_of
from vlforge.types import DataError, Row

CAPTIONS = "filter_cap.json"
PICTURES = "image"
_OWN = frozenset(("image_id", "caption", "id"))
_FIELDS = Fields({"image_id": str, "caption": str}, frozenset(("image_id", "caption")), own=_OWN)
_safe = re.compile(r"[\w-][\w.-]{0,150}", re.A).fullmatch


@dataclass(frozen=True)
class CcSbuAlignFormat:
    """A folder with `filter_cap.json` and `image/`; pictures are copied into it as they are.

    The annotations are `{"image_id", "caption"}`; every picture is named `.jpg`,
    whatever it is, since MiniGPT-4 puts that behind the id.
    """

    name: ClassVar[str] = "cc_sbu_align"
    holds: ClassVar[Holds] = Holds(document=True, extra=True, embedded=True)

    def recognises(self, path: Path) -> bool:
        """Whether there is a `filter_cap.json` in the folder."""
        return path.name == CAPTIONS or (path / CAPTIONS).is_file()

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The annotations in order, streamed; one that is no record comes as a `Fault`.

        Raises:
            DataError: the file cannot be read.
        """
        file_path = path if path.name == CAPTIONS and not path.is_dir() else path / CAPTIONS
        root = os.path.abspath(file_path.parent)
        layout = Layout(_FIELDS)
        for block in read_members(file_path, "annotations", layout):
            yield from records_of(block, layout, self, root)

    def record(self, row: Row, root: str, line: int) -> Record:
        """One annotation as a record.

        Raises:
            DataError: no caption, or an id that names no picture.
        """
        key, caption = row.get("image_id"), row.get("caption")
        if isinstance(key, bool) or not isinstance(key, str | int) or "/" in str(key) or key == "":
            raise DataError(f"'image_id' names no picture: {key!r}")
        if not isinstance(caption, str):
            raise DataError("an annotation has no 'caption'")
        extra = rest_of(row, _OWN)
        if "id" in row and str(row["id"]) != str(key):
            extra.setdefault("image_id", key)
        return _captioned(row.get("id", key), key, caption, extra, root, line)

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for an annotation without a further id."""
        key = row.image_id
        if "/" in key or not key:
            raise DataError(f"'image_id' names no picture: {key!r}")
        return _captioned(key, key, row.caption, extra, root, line)

    def columns(
        self, rows: Sequence[Any], extras: list[dict[str, Any]], root: str, line: int
    ) -> Iterable[Record] | None:
        """What `alike` gives for many rows; None where one has no caption or an odd id."""
        keys, captions = [row.image_id for row in rows], [row.caption for row in rows]
        if not all(keys) or not all(captions) or "/" in "".join(keys):
            return None
        pictures = map(Picture, [f"{PICTURES}/{key}.jpg" for key in keys], repeat(root))
        chunks = zip([f"{MARK}\n{caption}" for caption in captions], strict=True)
        return map(
            Record, keys, zip(pictures, strict=True), repeat(()), chunks, extras, count(line)
        )

    def writer(self, path: Path) -> _Writer:
        """Writes a new folder at `path`."""
        return _Writer(path)


def _captioned(
    number: Any, key: str | int, caption: str, extra: dict[str, Any], root: str, line: int
) -> Record:
    picture = Picture(f"{PICTURES}/{key}.jpg", root)
    chunk = f"{MARK}\n{caption}" if caption else MARK
    return Record(number, (picture,), (), (chunk,), extra, line)


class _Writer:
    """A new folder, filled under a hidden name."""

    def __init__(self, path: Path):
        self._stack = ExitStack()
        self._new = NewFolder(path)
        self._count = 0
        self._number = 0

    def __enter__(self) -> _Writer:
        self._folder = self._stack.enter_context(self._new)
        (self._folder / PICTURES).mkdir()
        self._file = self._stack.enter_context((self._folder / CAPTIONS).open("wb"))
        self._file.write(b'{"annotations": [')
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._file.write(b"\n]}\n")
                self._file.flush()
        except OSError as failure:
            told = write_error(self._new.path, failure)
            self._stack.__exit__(type(told), told, None)
            raise told from None
        self._stack.__exit__(kind, error, trace)

    def write(self, record: Record) -> None:
        """Add one caption and its picture.

        Raises:
            Unfit: no caption of one picture.
            DataError: the picture cannot be read.
            WriteError: the disk is full.
        """
        if len(record.pictures) != 1:
            raise Unfit(f"{len(record.pictures)} pictures where the format holds one")
        caption = caption_of(record)
        content = record.pictures[0].read()
        name = self._name(record)
        try:
            self._place(name).write_bytes(content)
        except OSError as error:
            raise write_error(self._new.path, error, len(content)) from None
        note: Row = {"image_id": name, "caption": caption}
        if record.id is not None and record.id != name:
            note["id"] = record.id
        extra = record.extra
        if extra.get("image_id") == name:
            extra = without(extra, "image_id")
        self._file.write(b",\n" if self._count else b"\n")
        self._file.write(encode(with_extra(note, extra, _OWN)))
        self._count += 1

    def _name(self, record: Record) -> str:
        """A name that is not taken: one that the record has, if it is plain, else a number."""
        for given in (record.extra.get("image_id"), record.id):
            is_plain = isinstance(given, str | int) and _safe(str(given)) is not None
            if is_plain and not self._place(str(given)).exists():
                return str(given)
        while self._place(str(self._number)).exists():
            self._number += 1
        return str(self._number)

    def _place(self, name: str) -> Path:
        return self._folder / PICTURES / f"{name}.jpg"
