"""Where pictures go when a dataset is written anew: kept, copied, embedded or extracted."""

from __future__ import annotations

import operator
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from msgspec.structs import replace

from vlforge.data.new_folder import is_refusal, write_error
from vlforge.data.records import Picture, Record
from vlforge.types import DataError, RecipeError

Mode = Literal["auto", "keep", "copy", "embed", "extract"]
_PER_FOLDER = 10_000
_SIGNS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


def check_mode(images: str) -> None:
    """Refuse a word for --images that is no mode; RecipeError names those there are."""
    if images not in get_args(Mode):
        raise RecipeError(f"--images is {images!r}: take one of {', '.join(get_args(Mode))}")


class Placer:
    """Puts the pictures of one new dataset where its mode says.

    `auto` embeds where the format stores pictures in the data, extracts bytes
    that have no file, and keeps files where they are. `copy` and `extract` put
    files below `folder / images`. Paths are written as they were given where the
    new dataset lies in the folder they start from, else relative to `root` where
    it is given, else absolute.
    """

    def __init__(self, mode: Mode, folder: Path, embeds: bool, root: Path | None = None):
        if mode == "embed" and not embeds:
            raise DataError("this format names pictures by their paths and cannot embed them")
        if mode in ("keep", "copy", "extract") and embeds:
            raise DataError(
                f"this format stores pictures in the data: --images {mode} has no place"
            )
        self.mode, self.embeds, self.root = mode, embeds, root
        self.folder = folder.absolute()
        self._folder_name = os.path.abspath(folder)
        self.count = 0

    def place(self, record: Record) -> Record:
        """The record with its pictures in place.

        Raises:
            DataError: a picture cannot be read or written, or bytes would be lost.
        """
        self.count += 1
        if not record.pictures:
            return record
        placed = tuple([self._one(picture, at) for at, picture in enumerate(record.pictures)])
        is_same = all(map(operator.is_, placed, record.pictures))
        return record if is_same else replace(record, pictures=placed)

    def _one(self, picture: Picture, at: int) -> Picture:
        if self.embeds:
            return replace(picture, content=picture.read())
        has_file = picture.content is None
        if self.mode == "keep" and not has_file:
            raise DataError("its picture is in the data and has no file: use --images extract")
        if self.mode == "copy" or not has_file:
            return self._written(picture, at)
        return self._named(picture)

    def _named(self, picture: Picture) -> Picture:
        """A file that stays where it is, named for the new dataset."""
        if "://" in picture.path:
            return picture
        if self.root is not None:
            shown = os.path.relpath(picture.place, self.root)
            return Picture(shown, str(self.root.absolute()))
        if picture.root == self._folder_name or os.path.isabs(picture.path):
            return picture
        return Picture(picture.place)

    def _written(self, picture: Picture, at: int) -> Picture:
        content = picture.content
        name = self._name(picture, at, content)
        target = self.folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            if content is None:
                shutil.copyfile(picture.place, part)
            else:
                part.write_bytes(content)
            part.replace(target)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and is_refusal(error):
                raise write_error(target, error, len(content or b"")) from None
            what = getattr(error, "filename", None) or repr(picture.path)
            why = getattr(error, "strerror", None) or error
            raise DataError(f"picture cannot be copied: {what} ({why})") from None
        return Picture(name, str(self.folder))

    def _name(self, picture: Picture, at: int, content: bytes | None) -> str:
        """Its own relative path where that is safe and it has one, else a number."""
        given = PurePosixPath(picture.path)
        is_safe = picture.path and not given.is_absolute() and ".." not in given.parts
        if content is None and is_safe:
            return given.as_posix() if given.parts[0] == "images" else f"images/{given}"
        suffix = suffix_of(content) if content is not None else given.suffix
        number = self.count - 1
        tail = f"_{at}" if at else ""
        return f"images/{number // _PER_FOLDER:05d}/{number:09d}{tail}{suffix}"


def suffix_of(content: bytes) -> str:
    """The file suffix of an encoded picture, by its first bytes; `.bin` for anything else."""
    for sign, suffix in _SIGNS:
        if content.startswith(sign):
            return suffix
    return ".webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else ".bin"
