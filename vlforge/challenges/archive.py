"""A contest's zip: the same files give the same bytes, and it appears whole or not at all.

Members have neither times nor owners. Large files are read and written a piece at a time,
so that 20 GB take no memory; Zip64 holds what is beyond 4 GB.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlforge.data.new_folder import write_error
from vlforge.types import ProgressFn, no_progress

_TIME = (1980, 1, 1, 0, 0, 0)
_PIECE = 1 << 22
_MODES = {True: 0o100755, False: 0o100644}


@dataclass(frozen=True)
class Member:
    """A file of a package: its name there, and the file or the text that it is."""

    name: str
    source: Path | None = None
    text: str = ""
    is_program: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.stat().st_size if self.source else len(self.text.encode())


@dataclass(frozen=True)
class Archive:
    """A written zip: its bytes, their sha256, and name, bytes and sha256 of every member."""

    bytes: int
    sha256: str
    members: list[dict[str, object]]


def write_archive(
    out: Path,
    files: Sequence[Member],
    *,
    stored_from: float = float("inf"),
    progress: ProgressFn = no_progress,
) -> Archive:
    """Write the members in their order; a zip of that name gives way to it.

    Args:
        stored_from: members of as many bytes are not deflated: weights do not shrink.

    Raises:
        DataError: the disk refuses, or a member is not there.
    """
    total = sum(member.size for member in files)
    part = out.with_name(f".{out.name}.part")
    sums, done = [], 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w", allowZip64=True) as archive:
            for member in files:
                progress(done, total, member.name)
                sums.append(_write(archive, member, stored_from))
                done += member.size
        digest = _digest(part, progress)
        size = part.stat().st_size
        part.replace(out)
    except OSError as error:
        raise write_error(out, error) from None
    finally:
        part.unlink(missing_ok=True)
    return Archive(size, digest, sums)


def _write(archive: zipfile.ZipFile, member: Member, stored_from: float) -> dict[str, object]:
    info = zipfile.ZipInfo(member.name, _TIME)
    info.create_system = 3
    info.external_attr = _MODES[member.is_program] << 16
    is_small = member.size < stored_from
    info.compress_type = zipfile.ZIP_DEFLATED if is_small else zipfile.ZIP_STORED
    info.file_size = member.size
    digest = hashlib.sha256()
    with archive.open(info, "w", force_zip64=member.size >= 1 << 31) as out:
        for piece in _pieces(member):
            digest.update(piece)
            out.write(piece)
    return {"name": member.name, "bytes": info.file_size, "sha256": digest.hexdigest()}


def _pieces(member: Member) -> Iterator[bytes]:
    if member.source is None:
        yield member.text.encode()
        return
    with member.source.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _digest(path: Path, progress: ProgressFn) -> str:
    """sha256 of the zip: read once more, since its head is written last."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            progress(done, total, "sha256")
    return digest.hexdigest()
