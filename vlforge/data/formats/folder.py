"""A folder of pictures with a `.txt` or `.json` of the same name beside each."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from vlforge.data.json_lines import as_row, decode, encode
from vlforge.data.json_rows import fault_of
from vlforge.data.new_folder import NewFolder, is_refusal, write_error
from vlforge.data.placing import suffix_of
from vlforge.data.plain_rows import any_caption, record_of, row_of
from vlforge.data.records import MARK, Fault, Holds, Picture, Record, Unfit
from vlforge.types import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_MAX_TEXT = 16 << 20
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SAFE = re.compile(r"[\w][\w.+@=-]{0,150}")
_PER_FOLDER = 10_000
_AT_ONCE = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class FolderFormat:
    """Pictures with `.txt` or `.json` of the same name beside them, folder by folder, sorted.

    The txt is the caption. The json holds what the record holds (`caption` or
    `conversations`, all other fields). A picture alone is a record without
    words. An id is the path without its suffix, unless the json has one. Links
    to folders are not followed. Written names are numbers, so that the order of
    the records is that of the names.

    Args:
        keep_names: write the names that the pictures have, or their ids, where
            they are free and safe; the order is theirs then.
    """

    keep_names: bool = False

    name: ClassVar[str] = "folder"
    holds: ClassVar[Holds] = Holds(conversation=True, document=True, extra=True, embedded=True)

    def recognises(self, path: Path) -> bool:
        """Whether there is a picture in the folder or below."""
        return path.is_dir() and next(_pictures(path, ""), None) is not None

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The pictures and what is written beside them, streamed.

        Raises:
            DataError: it is no folder.
        """
        if not path.is_dir():
            raise DataError(f"{path} is no folder of pictures")
        root = os.path.abspath(path)
        for line, found in enumerate(_pictures(path, ""), 1):
            try:
                yield _record(root, found, line)
            except DataError as error:
                yield fault_of(line, error)

    def writer(self, path: Path) -> FolderWriter:
        """Writes a new folder."""
        return FolderWriter(path, keeps_names=self.keep_names)


class FolderWriter:
    """Writes pictures and what belongs to them."""

    def __init__(self, path: Path, *, keeps_names: bool):
        self._new, self._keeps_names = NewFolder(path), keeps_names
        self.count = 0

    def __enter__(self) -> FolderWriter:
        self.folder = self._new.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._new.__exit__(kind, error, trace)

    def write(self, record: Record) -> None:
        """Add a picture and its words.

        Raises:
            Unfit: no picture, several, or one of no known format.
        """
        if len(record.pictures) != 1:
            raise Unfit(f"{len(record.pictures)} pictures where a name has one")
        content = record.pictures[0].read()
        suffix = suffix_of(content)
        if suffix == ".bin":
            raise Unfit("a picture is of no format that is known by its first bytes")
        stem = self._stem(record)
        target = self.folder / f"{stem}{suffix}"
        row = row_of(record)
        caption = any_caption(record)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if caption is not None:
                words = caption.encode("utf-8", errors="replace")
                target.with_name(f"{target.stem}.txt").write_bytes(words)
            is_told = row.keys() <= {"id", "caption"} and _is_exact(caption)
            if not is_told or row["id"] != stem:
                target.with_name(f"{target.stem}.json").write_bytes(encode(row))
        except OSError as error:
            if is_refusal(error):
                raise write_error(self._new.path, error, len(content)) from None
            raise DataError(f"cannot write {target.name}: {error.strerror or error}") from None
        self.count += 1

    def _stem(self, record: Record) -> str:
        """A name without suffix that no picture has yet."""
        number = "" if record.id is None else f"{record.id}.x"
        for given in (record.pictures[0].path, number) if self._keeps_names else ():
            stem = _safe_stem(given)
            if stem and not self._is_taken(stem):
                return stem
        at = self.count
        while True:
            stem = f"{at // _PER_FOLDER:05d}/{at:09d}"
            if not self._is_taken(stem):
                return stem
            at += 1

    def _is_taken(self, stem: str) -> bool:
        place = self.folder / stem
        kinds = ("", ".txt", ".json", *SUFFIXES)
        return any(os.path.lexists(f"{place}{kind}") for kind in kinds)


def _safe_stem(name: str) -> str:
    """A relative path without suffix, if each of its parts is a plain name."""
    given = PurePosixPath(name)
    if not name or given.is_absolute() or not all(map(_SAFE.fullmatch, given.parts)):
        return ""
    stem = given.with_suffix("")
    is_odd = any(part.endswith((".json", ".txt", *SUFFIXES)) for part in stem.parts)
    return "" if is_odd or len(given.parts) > 8 else stem.as_posix()


def _is_exact(caption: str | None) -> bool:
    """Whether a txt tells the caption to the letter."""
    return caption is None or (caption == caption.strip() and "\r" not in caption)


class _Found(NamedTuple):
    """A picture, and what stands in its folder."""

    below: str
    """Its folder, with the slash at its end."""
    stem: str
    name: str
    files: dict[str, bool]
    """Names that are no folders, and whether they are files and not links."""


def _pictures(folder: Path, below: str) -> Iterator[_Found]:
    """The pictures, sorted, the files of a folder before its folders."""
    try:
        files, folders = _listed(folder / below)
    except OSError:
        return
    for name in sorted(files):
        stem, dot, suffix = name.rpartition(".")
        if f".{suffix.lower()}" in SUFFIXES and dot and name[0] != ".":
            yield _Found(below, stem, name, files)
    for name in sorted(folders):
        if name[0] != ".":
            yield from _pictures(folder, f"{below}{name}/")


def _listed(folder: Path) -> tuple[dict[str, bool], list[str]]:
    """The files, as `_Found` has them, and the folders."""
    files: dict[str, bool] = {}
    folders = []
    with os.scandir(folder) as entries:
        for one in entries:
            if one.is_dir(follow_symlinks=False):
                folders.append(one.name)
            else:
                files[one.name] = one.is_file(follow_symlinks=False)
    return files, folders


def _record(root: str, found: _Found, line: int) -> Record:
    """The record of a picture in the folder `root`."""
    below, stem, name, files = found
    key, picture = below + stem, Picture(below + name, root)
    json_name, text_name = f"{stem}.json", f"{stem}.txt"
    row: dict[str, Any] = {}
    is_told = json_name in files
    if (
        is_told
        and (told := _beside(root, below + json_name, is_plain=files[json_name])) is not None
    ):
        try:
            row = as_row(decode(told))
        except DataError as error:
            raise DataError(f"a picture's json cannot be read: {key}.json: {error}") from None
    words = None
    if text_name in files:
        text = _beside(root, below + text_name, is_plain=files[text_name])
        try:
            words = None if text is None else text.removeprefix(_BOM).decode()
        except UnicodeDecodeError:
            raise DataError(f"a picture's text is not UTF-8: {key}.txt") from None
    if not is_told and words is not None and MARK not in words:
        caption = words.removesuffix("\n")
        return Record(key, (picture,), (), (f"{MARK}\n{caption}",), {}, line)
    odd = {f"extra.{key}": row.pop(key) for key in ("image", "images") if key in row}
    return record_of(row | odd, (picture,), text=words, name=key, line=line)


def _beside(root: str, name: str, *, is_plain: bool) -> bytes | None:
    """The content of a file beside a picture; None for what is no file.

    Args:
        root: the dataset's folder.
        name: below it.
        is_plain: it is known to be a file, and nobody has to ask again.

    Raises:
        DataError: it is longer than a text is, or cannot be read.
    """
    try:
        # Without waiting for a pipe's other end.
        file = os.open(f"{root}/{name}", _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"a text cannot be read: {name}: {error.strerror}") from None
    try:
        if not is_plain and not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        data = os.read(file, _AT_ONCE)
        if len(data) < _AT_ONCE:
            return data
        while len(data) <= _MAX_TEXT and (more := os.read(file, _MAX_TEXT)):
            data += more
        if len(data) > _MAX_TEXT:
            raise DataError(f"a text is longer than {_MAX_TEXT >> 20} MiB: {name}")
        return data
    except OSError as error:
        raise DataError(f"a text cannot be read: {name}: {error.strerror}") from None
    finally:
        os.close(file)
