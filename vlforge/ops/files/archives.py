"""Reading LaTeX projects out of packed archives."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch
from vlforge.types import Drop, Row

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
MOST_MEMBERS = 100_000
MOST_PASSED = 4 << 30
"""Bytes of other files in a packed tar that are unpacked on the way to its .tex files."""


class ArchiveError(Exception):
    """An archive that cannot be read to its end; the message says why."""


@dataclass(frozen=True, kw_only=True)
class LatexMergeTexMapper(RowMapper):
    """Join the .tex files of an archive (zip, tar, tar.gz) to the row's text.

    `compressed_file_key` names the field with the archive's path. Files are
    joined in the archive's order by `separator`; bytes that are not UTF-8 become
    replacement characters. A file of more than `max_file_size` bytes is left out,
    and reading stops before the files together pass `max_total_size` (0 or null:
    no limit; the size that the archive states and the true one both count).
    Nothing is unpacked to disk and no link is followed, so names in an archive
    cannot lead out of it. An archive without .tex files gives an empty text.

    A row whose archive is missing, broken, of another kind, or holds more than
    100,000 files (or 4 GiB of other files in a tar) is dropped with the reason;
    `compat: data_juicer` keeps it with an empty text.
    """

    compressed_file_key: str = "compressed_file"
    separator: str = "\n\n"
    max_file_size: int | None = 50 * 1024 * 1024
    max_total_size: int | None = 100 * 1024 * 1024

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        return [self._merged(item.row) for item in batch.items]

    def _merged(self, row: Row) -> Row | Drop:
        path = look_up(row, self.compressed_file_key)
        if not isinstance(path, str) or not path:
            return Drop("", "no archive named", self.compressed_file_key, path)
        try:
            texts = self._texts(path)
        except ArchiveError as error:
            if self.compat != "data_juicer":
                return Drop("", str(error), None, path)
            texts = []
        return replaced(row, self.text_key, self.separator.join(texts))

    def _texts(self, path: str) -> list[str]:
        name = path.lower()
        if not name.endswith((".zip", *TAR_ENDINGS)):
            raise ArchiveError("archive is not zip, tar, tar.gz or tgz")
        try:
            members = _zip_members(path) if name.endswith(".zip") else _tar_members(path)
            return list(self._within_limits(members))
        except FileNotFoundError:
            raise ArchiveError("missing archive") from None
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
            raise ArchiveError(f"broken archive: {type(error).__name__}") from None
        except (RuntimeError, NotImplementedError, ValueError):
            raise ArchiveError("archive is encrypted or packed in an unknown way") from None

    def _within_limits(self, members: Iterator[_Member]) -> Iterator[str]:
        per_file, left = self.max_file_size or None, self.max_total_size or None
        for member in members:
            if per_file is not None and member.size > per_file:
                continue
            if left is not None and member.size > left:
                return
            data = member.read()
            if left is not None:
                left -= len(data)
            yield data.decode("utf-8", "replace")


@dataclass(frozen=True)
class _Member:
    """A .tex file in an archive, and how to read it: never more than `size` bytes."""

    size: int
    read: Callable[[], bytes]


def _zip_members(path: str) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
        if len(found) > MOST_MEMBERS:
            raise ArchiveError(f"archive of more than {MOST_MEMBERS} files")
        for info in found:
            if info.filename.endswith(".tex"):
                yield _Member(info.file_size, lambda info=info: archive.read(info))  # type: ignore[misc]


def _tar_members(path: str) -> Iterator[_Member]:
    passed = 0
    with tarfile.open(path, "r:*") as archive:
        for number, info in enumerate(archive):
            passed += info.size
            if number >= MOST_MEMBERS or passed > MOST_PASSED:
                raise ArchiveError("archive of more files or bytes than are read")
            if info.isfile() and info.name.endswith(".tex"):
                yield _Member(info.size, lambda info=info: _content(archive, info))  # type: ignore[misc]


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    data = file.read(info.size) if file is not None else b""
    if len(data) < info.size:
        raise EOFError(os.path.basename(info.name))
    return data
