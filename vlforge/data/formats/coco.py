"""COCO captions: one object of `images` and `annotations`; an annotation is one record."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from vlforge.data.disk_table import DiskTable
from vlforge.data.json_arrays import STOPS, object_members
from vlforge.data.json_lines import as_row, decode, encode, open_data, whole_file
from vlforge.data.json_rows import fault_of, head_members, rest_of, with_extra, without
from vlforge.data.json_turns import PICTURE_FIELDS, fields_of, with_fields
from vlforge.data.records import MARK, Fault, Holds, Picture, Record, Unfit, caption_of
from vlforge.types import DataError, Row

_OWN = frozenset(("id", "image_id", "caption"))
_IMAGE_OWN = frozenset(("id", "file_name"))
_LISTS = ("images", "annotations")


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
        with closing(DiskTable()) as images:
            if not _collect_images(path, images, stop=True):
                _collect_images(path, images)
            number = 0
            try:
                for number, item in enumerate(_items(path, "annotations"), 1):
                    yield self._found(item, images, root, number)
            except STOPS as error:
                yield fault_of(number + 1, DataError(str(error)))

    def _found(self, item: bytes, images: DiskTable, root: str, line: int) -> Record | Fault:
        try:
            return self._record(as_row(decode(item)), images, root, line)
        except DataError as error:
            return fault_of(line, error)

    def _record(self, row: Row, images: DiskTable, root: str, line: int) -> Record:
        caption = row.get("caption")
        if not isinstance(caption, str):
            raise DataError("an annotation has no 'caption'")
        key = row.get("image_id")
        kept = images.get(encode(key))
        if kept is None:
            raise DataError(f"its image is not among 'images': {key!r}")
        image = decode(kept)
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"its image has no 'file_name': {key!r}")
        extra = with_fields(rest_of(row, _OWN), PICTURE_FIELDS, [rest_of(image, _IMAGE_OWN)])
        picture = Picture(os.path.join(self.image_dir, name), root)
        chunk = f"{MARK}\n{caption}" if caption else MARK
        return Record(row.get("id"), (picture,), (), (chunk,), {"image_id": key, **extra}, line)

    def writer(self, path: Path) -> _Writer:
        """Writes a new file at `path`."""
        return _Writer(path, self.image_dir)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_data(path) as file:
        yield from object_members(file, _LISTS)


def _items(path: Path, wanted: str) -> Iterator[bytes]:
    return (item for key, item in _members(path) if key == wanted)


def _collect_images(path: Path, images: DiskTable, *, stop: bool = False) -> bool:
    """Keep the images by their ids; with `stop` only those before the first annotation."""
    has_any = False
    try:
        for key, item in _members(path):
            if key == "annotations" and stop:
                break
            number = _image_id(item) if key == "images" else None
            if number is not None:
                images.put(number, item)
                has_any = True
    except STOPS:
        # Said where the annotations are read.
        return has_any
    return has_any


def _image_id(item: bytes) -> bytes | None:
    try:
        image = decode(item)
    except DataError:
        return None
    return encode(image.get("id")) if isinstance(image, dict) else None


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
        if kind is None:
            self._file.write(b'\n], "annotations": [')
            self._notes.seek(0)
            shutil.copyfileobj(self._notes, self._file, 1 << 20)
            self._file.write(b"\n]}\n")
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
