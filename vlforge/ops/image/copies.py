"""Writing changed copies of pictures, and pointing rows to them."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.data.images import ImageError, ImageFile, to_rgb
from vlforge.ops.base import Grown, RowMapper
from vlforge.ops.batch import Batch, Item, drop_of
from vlforge.types import DataError, Drop, Need, RecipeError, Row

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE_FILES = "__dj__source_file__"
"""Field of a row: per picture the file that the last change was made from."""

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""What a copy is written as, by the ending of its name; other endings become `.png`."""

_DIGEST = re.compile(r"__[0-9a-f]{20}$")
_LONGEST_STEM = 120


@dataclass(frozen=True)
class Copy:
    """A changed picture: where it lies and what its file holds."""

    path: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class PictureWriter(RowMapper):
    """Changes pictures of rows: writes copies and points the rows to them.

    Copies lie in `save_dir`, or else in the run's folder under the operator's
    name. A copy is named after its picture and a digest of its own content: the
    same picture and keys give the same file, whoever writes it and when, and a
    copy that is there is not written again. They carry no EXIF, profile or
    comment. `quality` is that of jpeg and webp copies, by default 75 and 80.

    The row's paths are replaced, and its bytes where it carries them.
    `__dj__source_file__` names per picture the file it was made from. A picture
    that is cut off or damaged drops its row; `compat: data_juicer` changes what
    there is of it.
    """

    save_dir: str | None = None
    quality: int | None = None

    needs: ClassVar = Need.PIXELS
    keeps_pictures: ClassVar[bool] = True
    op_name: ClassVar[str] = ""
    marks_all: ClassVar[bool] = True
    """Whether rows without a change name their source files, too, as in Data-Juicer."""

    def __post_init__(self) -> None:
        self.check_copies()

    def check_copies(self) -> None:
        """Refuse keys that make no sense."""
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise RecipeError(f"{self.op_name}.quality is {self.quality}, not 1..100")

    def wants(self, file: ImageFile, item: Item, number: int, batch: Batch) -> bool:
        """Whether the picture may have to change, before it is decoded."""
        return True

    def view(self, image: Image, is_truncated: bool) -> Any:
        """What `change` has to know of a picture; false where it stays as it is."""
        return True

    def change(self, image: Image, seen: Any) -> Image:
        """A new picture; `seen` is what `view` gave."""
        raise NotImplementedError

    def ending(self, path: str) -> str:
        """The ending of the copy's name, which says its format."""
        found = os.path.splitext(path)[1]
        return found if found.lower() in FORMATS else ".png"

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        rows: list[Grown | Row | Drop] = []
        for item, files in zip(batch.items, batch.image_files(self), strict=True):
            try:
                copies = self._copies(item, files, batch)
            except ImageError as error:
                rows.append(drop_of(error))
            else:
                rows.append(self._row(item.row, files, [copies[file] for file in files]))
        return rows

    def _copies(
        self, item: Item, files: Sequence[ImageFile], batch: Batch
    ) -> dict[ImageFile, Copy | None]:
        """The copy of each picture, None where it stays; a picture that comes twice has one."""
        copies: dict[ImageFile, Copy | None] = {}
        for number, file in enumerate(files):
            if file not in copies:
                copies[file] = self._copy(file, item, number, batch)
        return copies

    def _copy(self, file: ImageFile, item: Item, number: int, batch: Batch) -> Copy | None:
        if not self.wants(file, item, number, batch):
            return None
        seen = batch.files.view(file, self)
        if not seen:
            return None
        return self.saved(self.change(batch.files.take(file, self), seen), file, batch)

    def saved(
        self, image: Image, file: ImageFile, batch: Batch, quality: int | None = None
    ) -> Copy:
        """Write a picture that was made of `file`; `quality` goes before the operator's.

        Raises:
            ImageError: its format cannot hold it.
        """
        ending = self.ending(file.path)
        kind = FORMATS[ending.lower()]
        try:
            content = encoded(image, kind, quality or self.quality)
        except Exception as error:  # encoders have bounds of their own, such as on the sides
            reason = f"image {file.path} cannot be written as {kind}: {error}"
            raise ImageError("image cannot be written", reason) from None
        folder = self._folder(batch.context.produced)
        path = os.path.join(folder, copy_name(file.path, content, ending))
        write_whole(path, content)
        return Copy(path, content)

    def _folder(self, produced: str) -> str:
        if self.save_dir:
            return os.path.abspath(self.save_dir)
        if not produced:
            raise RecipeError(f"{self.op_name} has nowhere to write pictures: set save_dir")
        return os.path.abspath(os.path.join(produced, self.op_name))

    def _row(self, row: Row, files: Sequence[ImageFile], copies: Sequence[Copy | None]) -> Row:
        if not any(copies) and not self.marks_all:
            return row
        sources = row.get(SOURCE_FILES)
        if not isinstance(sources, list) or len(sources) != len(files):
            sources = [file.path for file in files]
        changed = dict(row)
        if any(copies):
            pairs = list(zip(files, copies, strict=True))
            changed[self.image_key] = [copy.path if copy else file.path for file, copy in pairs]
            sources = [
                file.path if copy else source
                for (file, copy), source in zip(pairs, sources, strict=True)
            ]
        contents = row.get(self.image_bytes_key)
        if isinstance(contents, list):
            missing = [None] * (len(contents) - len(copies))
            changed[self.image_bytes_key] = [
                _in_place_of(old, copy)
                for old, copy in zip(contents, [*copies, *missing], strict=False)
            ]
        changed[SOURCE_FILES] = sources
        return changed


def _in_place_of(old: Any, copy: Copy | None) -> Any:
    """The copy's content, as bytes or base64 text as the row had it."""
    if copy is None or not isinstance(old, bytes | str):
        return old
    return copy.content if isinstance(old, bytes) else base64.b64encode(copy.content).decode()


def encoded(image: Image, kind: str, quality: int | None) -> bytes:
    """The content of a file with these pixels and nothing else; the picture's notes are dropped."""
    if kind == "JPEG" and image.mode != "L":
        image = to_rgb(image)
    image.info = {}
    options = {"quality": quality} if quality and kind in ("JPEG", "WEBP") else {}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def copy_name(path: str, content: bytes, ending: str) -> str:
    """`photo.jpg` -> `photo__<digest>.jpg`; a copy of a copy has one digest."""
    stem = os.path.splitext(os.path.basename(path))[0]
    stem = "".join(filter(str.isprintable, _DIGEST.sub("", stem)))
    stem = stem.encode("utf-8", "ignore")[:_LONGEST_STEM].decode("utf-8", "ignore")
    digest = hashlib.blake2b(content, digest_size=10).hexdigest()
    return f"{stem}__{digest}{ending}"


def write_whole(path: str, content: bytes) -> None:
    """Write a file all at once, unless it is there.

    Raises:
        DataError: the folder cannot be written to; names the file.
    """
    part = f"{path}.{os.getpid()}.part"
    try:
        if os.path.exists(path) and os.path.getsize(path) == len(content):
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(part).write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from None
