"""COCO captions: one object of `images` and `annotations`; an annotation is one record."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import count, repeat
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import IO, Any, ClassVar

from vlforge.data.disk_table import DiskTable
from vlforge.data.json_arrays import STOPS, member_blocks
from vlforge.data.json_blocks import AnyRows, Block, value_of
from vlforge.data.json_layout import Fields, Layout, extra_of, extras_of
from vlforge.data.json_lines import decode, encode, open_data, whole_file
from vlforge.data.json_rows import (
    fault_of,
    head_members,
    records_of,
    rest_of,
    with_extra,
    without,
)
from vlforge.data.json_turns import PICTURE_FIELDS, fields_of
from vlforge.data.new_folder import write_error
from vlforge.data.records import MARK, Fault, Holds, Picture, Record, Unfit, caption_of
from vlforge.types import DataError, Row

_OWN = frozenset(("id", "image_id", "caption"))
_IMAGE_OWN = frozenset(("id", "file_name"))
_LISTS = ("images", "annotations")
_FIELDS = Fields(
    {"id": Any, "image_id": int | str, "caption": str}, frozenset(("image_id", "caption"))
)
_IMAGE_FIELDS = Fields({"id": int | str, "file_name": str}, frozenset(("id", "file_name")))
_id = attrgetter("id")
IN_MEMORY = 250_000
"""Images that are kept in memory; more are kept on disk."""


@dataclass(frozen=True)
class CocoFormat:
    """COCO captions: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.

    A picture with five captions is five records; images without a caption are none.

    Args:
        image_dir: the pictures' folder, relative to the file.
    """

    image_dir: str = ""

    name: ClassVar[str] = "coco"
    holds: ClassVar[Holds] = Holds(document=True, extra=True)

    def recognises(self, path: Path) -> bool:
        """Whether the file begins with COCO's members."""
        head = head_members(path, _LISTS)
        image, caption = (head.get(key) for key in _LISTS)
        if isinstance(image, dict):
            return "file_name" in image
        return isinstance(caption, dict) and {"id", "image_id", "caption"} <= caption.keys()

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The annotations in order, streamed; one that is no record comes as a `Fault`.

        Raises:
            DataError: the file cannot be read.
        """
        root = os.path.abspath(path.parent)
        layout = Layout(_FIELDS)
        line = 1
        with closing(_Images()) as images:
            join = _Join(images, self.image_dir)
            try:
                for rows in _annotations(path, images, layout):
                    join.look_up(rows)
                    yield from records_of(Block(line, rows), layout, join, root)
                    line += len(rows)
            except STOPS as error:
                yield fault_of(line, DataError(str(error)))

    def writer(self, path: Path) -> _Writer:
        """Writes a new file at `path`."""
        return _Writer(path, self.image_dir)


def _annotations(path: Path, images: _Images, layout: Layout) -> Iterator[list[Any]]:
    """The annotations, some at a time, the images kept before them."""
    decoders = {"images": Layout(_IMAGE_FIELDS).array, "annotations": layout.array}
    with open_data(path) as file:
        for key, rows in member_blocks(file, decoders, value_of):
            if key == "images":
                images.add(rows)
            elif key == "annotations":
                images.fill(path)
                yield rows


class _Join:
    """Makes records of annotations and their images."""

    def __init__(self, images: _Images, folder: str):
        self._images, self._folder = images, folder
        self._found: Mapping[Any, Any] = {}

    def look_up(self, rows: Sequence[Any]) -> None:
        """Have the images of these annotations at hand."""
        self._found = self._images.find(rows)

    def record(self, row: Row, root: str, line: int) -> Record:
        """An annotation as a record."""
        caption = row.get("caption")
        if not isinstance(caption, str):
            raise DataError("an annotation has no 'caption'")
        return self._record(row.get("id"), row.get("image_id"), caption,
                            rest_of(row, _OWN), root, line)  # fmt: skip

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of a layout."""
        return self._record(row.id, row.image_id, row.caption, extra, root, line)

    def columns(
        self, rows: Sequence[Any], extras: list[dict[str, Any]], root: str, line: int
    ) -> Iterable[Record] | None:
        """What `alike` gives for many rows; None where one or its image is special."""
        keys, captions = [row.image_id for row in rows], [row.caption for row in rows]
        images = list(map(self._found.get, keys))
        if self._folder or {dict, NoneType} & set(map(type, images)):
            return None
        names = [image.file_name for image in images]  # type: ignore[union-attr]
        if not all(names) or not all(captions):
            return None
        told = _told(keys, extras, extras_of(images))
        numbers = [row.id for row in rows]
        pictures = zip(map(Picture, names, repeat(root)), strict=True)
        chunks = zip([f"{MARK}\n{caption}" for caption in captions], strict=True)
        return map(Record, numbers, pictures, repeat(()), chunks, told, count(line))

    def _record(
        self, number: Any, key: Any, caption: str, extra: dict[str, Any], root: str, line: int
    ) -> Record:
        image = self._found.get(_key(key))
        if image is None:
            raise DataError(f"its image is not among 'images': {key!r}")
        if image.__class__ is dict:
            name, rest = image.get("file_name"), rest_of(image, _IMAGE_OWN)
        else:
            name, rest = image.file_name, extra_of(image)
        if not name or not isinstance(name, str):
            raise DataError(f"its image has no 'file_name': {key!r}")
        picture = Picture(os.path.join(self._folder, name) if self._folder else name, root)
        told = {"image_id": key}
        if extra:
            told.update(extra)
        if rest:
            told[PICTURE_FIELDS] = [rest]
        chunk = f"{MARK}\n{caption}" if caption else MARK
        return Record(number, (picture,), (), (chunk,), told, line)


def _told(
    keys: list[Any], extras: list[dict[str, Any]], rests: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What records have beside captions and paths: of annotations, and of their images."""
    if all(rests) and not any(extras):
        for key, rest in zip(keys, rests, strict=True):
            yield {"image_id": key, PICTURE_FIELDS: [rest]}
        return
    for key, extra, rest in zip(keys, extras, rests, strict=True):
        told = {"image_id": key, **extra}
        if rest:
            told[PICTURE_FIELDS] = [rest]
        yield told


class _Images:
    """The images by their ids: in memory, and on disk what would be too much of it."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}
        self._more = DiskTable()
        self._has_more = self._is_filled = False

    def add(self, rows: Sequence[Any]) -> None:
        """Keep images; a later one takes the place of an earlier one of the same id."""
        known = self._known
        if len(known) + len(rows) <= IN_MEMORY and hasattr(rows[0], "id"):
            # All rows of a layout are fields, or none.
            known.update(zip(map(_id, rows), rows, strict=True))
            return
        for row in rows:
            if isinstance(row, dict):
                key = _key(row.get("id"))
            elif hasattr(row, "id"):
                key = row.id
            else:
                continue
            if len(known) < IN_MEMORY or key in known:
                known[key] = row
            else:
                self._has_more = True
                self._more.put(encode(key), encode(_as_dict(row)))

    def fill(self, path: Path) -> None:
        """Where none is known, those of a file that has them behind its annotations."""
        if self._known or self._is_filled:
            return
        self._is_filled = True
        decoders = {"images": Layout(_IMAGE_FIELDS).array, "annotations": _passed}
        # What is wrong with the file is said where the annotations are read.
        with open_data(path) as file, suppress(*STOPS):
            for key, rows in member_blocks(file, decoders, value_of):
                if key == "images":
                    self.add(rows)

    def find(self, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """The images of some annotations by their keys, and maybe others."""
        if not self._has_more:
            return self._known
        wanted = {
            _key(row.get("image_id") if isinstance(row, dict) else row.image_id)
            for row in rows
            if isinstance(row, dict) or hasattr(row, "image_id")
        }
        found = {key: self._known[key] for key in wanted & self._known.keys()}
        others = {encode(key): key for key in wanted - found.keys()}
        for data, kept in self._more.get_all(list(others)).items():
            found[others[data]] = decode(kept)
        return found

    def close(self) -> None:
        """Give the space back."""
        self._more.close()


def _key(value: Any) -> Any:
    """What an id is found by: itself, if it is a whole number or a text."""
    return value if value.__class__ in (int, str) else encode(value)


def _as_dict(row: Any) -> dict[str, Any]:
    if row.__class__ is dict:
        found: dict[str, Any] = row
        return found
    return {"id": row.id, "file_name": row.file_name, **extra_of(row)}


def _passed(text: bytes) -> list[Any]:
    return [None] * len(AnyRows.array(text))


class _Writer:
    """Images go into the file at once, annotations behind them when all are known."""

    def __init__(self, path: Path, image_dir: str):
        self.path = path
        self._folder = f"{image_dir.rstrip('/')}/" if image_dir else ""
        self._stack = ExitStack()
        self._images = self._count = 0
        self._next = 1

    def __enter__(self) -> _Writer:
        self._file: IO[bytes] = self._stack.enter_context(whole_file(self.path))
        self._notes = self._stack.enter_context(tempfile.TemporaryFile(dir=self.path.parent))
        self._known = self._stack.enter_context(closing(DiskTable()))
        self._file.write(b'{"info": {}, "licenses": [], "images": [')
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._file.write(b'\n], "annotations": [')
                self._notes.seek(0)
                shutil.copyfileobj(self._notes, self._file, 1 << 20)
                self._file.write(b"\n]}\n")
        except OSError as failure:
            told = write_error(self.path, failure)
            self._stack.__exit__(type(told), told, None)
            raise told from None
        self._stack.__exit__(kind, error, trace)

    def write(self, record: Record) -> None:
        """Add one caption, and its picture where it is new.

        Raises:
            Unfit: no caption of one picture, or another picture bears its `image_id`.
        """
        if len(record.pictures) != 1:
            raise Unfit(f"{len(record.pictures)} pictures where the format holds one")
        caption = caption_of(record)
        given = record.extra.get("image_id")
        has_id = isinstance(given, int | str) and not isinstance(given, bool)
        key = self._image(record, given if has_id else None)
        extra = without(record.extra, *(["image_id"] if has_id and given == key else []))
        if fields_of(record, PICTURE_FIELDS, 1):
            extra = without(extra, PICTURE_FIELDS)
        self._count += 1
        number = self._count if record.id is None else record.id
        note = {"id": number, "image_id": key, "caption": caption}
        self._notes.write(b"\n" if self._count == 1 else b",\n")
        self._notes.write(encode(with_extra(note, extra, _OWN)))

    def _image(self, record: Record, given: Any) -> Any:
        """The id of the record's picture, written where it is new."""
        path = record.pictures[0].path
        place = b"path" + path.encode("utf-8", "surrogatepass")
        known = self._known.get(place)
        if known is not None:
            return decode(known)
        key = self._free() if given is None else given
        if self._known.get(b"id" + encode(key)) is not None:
            raise Unfit(f"two pictures have the same 'image_id': {key!r}")
        self._known.put(place, encode(key))
        self._known.put(b"id" + encode(key), b"")
        more = fields_of(record, PICTURE_FIELDS, 1)
        image = {"id": key, "file_name": path.removeprefix(self._folder)}
        self._file.write(b"\n" if not self._images else b",\n")
        self._file.write(encode(with_extra(image, more[0] if more else {}, _IMAGE_OWN)))
        self._images += 1
        return key

    def _free(self) -> int:
        while self._known.get(b"id" + encode(self._next)) is not None:
            self._next += 1
        return self._next
