"""Fetching the files that rows name: which, how many at a time, and what becomes of the rows.

The source of files (web, S3) is a function that opens an address; all else is
here, so that every source has limits, whole files and reasons alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch
from vlforge.types import DataError, Drop, RecipeError, Row

CHUNK = 1 << 18
_LEDGER = ".names"
"""Folder beside the files that notes which address has which name."""
_LONGEST_NAME = 200
"""Bytes of a name; most file systems take 255, and a hash may be added."""


class FetchError(Exception):
    """A file that cannot be had: a short reason, the same for all files that lack the same."""


class Stream(Protocol):
    """An open source of bytes; `size` is what it claims to hold, None where it does not say."""

    size: int | None

    def read(self) -> bytes:
        """The next bytes, at most about `CHUNK`; none at the end."""
        ...


Open = Callable[[str], AbstractContextManager[Stream]]


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched, or why it was not."""

    path: str | None = None
    content: bytes | None = None
    failure: str = ""


@dataclass
class _Job:
    """One address and what is wanted of it."""

    address: str
    path: str | None = None
    wants_content: bool = False


@dataclass(frozen=True, kw_only=True)
class Fetching(RowMapper):
    """What all operators that fetch files share; the mappers document it."""

    download_field: str | None = None
    save_dir: str | None = None
    save_field: str | None = None
    resume_download: bool = False
    timeout: float = 30
    max_concurrent: int = 10
    max_bytes: int = 1 << 30
    allow_private: bool = False

    called: ClassVar[str]

    def __post_init__(self) -> None:
        name = self.called
        if not self.download_field:
            raise RecipeError(f"{name} needs download_field, the field that holds addresses")
        for key in ("timeout", "max_concurrent", "max_bytes"):
            if getattr(self, key) <= 0:
                raise RecipeError(f"{name}.{key} is {getattr(self, key)}, not above 0")
        if self.save_dir:
            object.__setattr__(self, "save_dir", os.path.abspath(self.save_dir))

    def opener(self) -> Open:
        """Opens an address, or raises `FetchError`."""
        raise NotImplementedError

    def is_remote(self, address: str) -> bool:
        """Whether the address is one that `opener` is asked for; other ones are local paths."""
        return "://" in address

    @property
    def content_field(self) -> str | None:
        """The field for the files' bytes; by default the pictures', where no folder is named."""
        return self.save_field or (None if self.save_dir else self.image_bytes_key)

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        jobs: dict[str, _Job] = {}
        asked = [self._ask(item.row, jobs) for item in batch.items]
        found = self._fetch_all(list(jobs.values()))
        return [
            self._row(item.row, wanted, found) if isinstance(wanted, _Wanted) else wanted
            for item, wanted in zip(batch.items, asked, strict=True)
        ]

    def _ask(self, row: Row, jobs: dict[str, _Job]) -> _Wanted | Row | Drop:
        """What a row wants; the row or a drop where nothing is to be fetched for it."""
        value = look_up(row, self.download_field or "")
        if value is None or value in ("", []):
            return row
        addresses = value if isinstance(value, list) else [value]
        wanted = _Wanted(value, [a if isinstance(a, str) else "" for a in addresses])
        if self.content_field is not None:
            given = look_up(row, self.content_field)
            if given and not self.resume_download:
                return Drop("", "field to fill is not empty", self.content_field, None,
                            "resume_download: true")  # fmt: skip
            held = given if isinstance(given, list) else [given]
            if len(held) == len(addresses):
                wanted.held = {at: content for at, content in enumerate(held) if content}
        for at, address in enumerate(wanted.addresses):
            job = jobs.setdefault(address, _Job(address))
            job.wants_content |= self.content_field is not None and at not in wanted.held
        return wanted

    def _fetch_all(self, jobs: Sequence[_Job]) -> dict[str, Fetched]:
        from concurrent.futures import ThreadPoolExecutor

        if self.save_dir:
            self._name_files(jobs)
        if not jobs:
            return {}
        opener = self.opener()
        with ThreadPoolExecutor(min(self.max_concurrent, len(jobs))) as pool:
            results = list(pool.map(lambda job: self._fetch(job, opener), jobs))
        return {job.address: result for job, result in zip(jobs, results, strict=True)}

    def _name_files(self, jobs: Sequence[_Job]) -> None:
        """A path for each job, in order, so that names do not depend on who is first."""
        folder = self.save_dir or ""
        try:
            os.makedirs(os.path.join(folder, _LEDGER), exist_ok=True)
        except OSError as error:
            raise _cannot_write(folder, error) from None
        for job in jobs:
            if not self.is_remote(job.address):
                continue
            name = file_name(job.address)
            if self.compat != "data_juicer":
                name = claimed_name(folder, name, job.address)
            job.path = os.path.join(folder, name)

    def _fetch(self, job: _Job, opener: Open) -> Fetched:
        try:
            if not job.address:
                raise FetchError("not an address")
            if not self.is_remote(job.address):
                return self._local(job)
            if job.path is None:
                content = self._download(job.address, opener) if job.wants_content else None
                return Fetched(None, content)
            takes_old = self.resume_download or self.compat == "data_juicer"
            if not (takes_old and os.path.isfile(job.path)):
                self._save(job.address, job.path, opener)
            return Fetched(job.path, _read(job.path) if job.wants_content else None)
        except FetchError as error:
            return Fetched(failure=str(error))

    def _local(self, job: _Job) -> Fetched:
        path = job.address if self.save_dir else None
        if not job.wants_content:
            return Fetched(path)
        if not self.allow_private:
            raise FetchError("a local file: allow_private: true would read it")
        if not os.path.isfile(job.address):
            raise FetchError("no such file")
        if os.path.getsize(job.address) > self.max_bytes:
            raise FetchError(f"more than {self.max_bytes} bytes")
        return Fetched(path, _read(job.address))

    def _download(self, address: str, opener: Open) -> bytes:
        with opener(address) as stream:
            return b"".join(self._pieces(stream))

    def _save(self, address: str, path: str, opener: Open) -> None:
        """Write the file whole or not at all."""
        with opener(address) as stream, _whole_file(path) as write:
            for piece in self._pieces(stream):
                write(piece)

    def _pieces(self, stream: Stream) -> Iterator[bytes]:
        """The bytes of a stream; refuses one that is too long, or ends before its stated end."""
        if (stream.size or 0) > self.max_bytes:
            raise FetchError(f"more than {self.max_bytes} bytes")
        count = 0
        while piece := stream.read():
            count += len(piece)
            if count > self.max_bytes:
                raise FetchError(f"more than {self.max_bytes} bytes")
            yield piece
        if stream.size is not None and count != stream.size:
            raise FetchError("cut off")

    def _row(self, row: Row, wanted: _Wanted, found: Mapping[str, Fetched]) -> Row | Drop:
        results = [found[address] for address in wanted.addresses]
        for address, result in zip(wanted.addresses, results, strict=True):
            if result.failure and self.compat != "data_juicer":
                return Drop("", f"download failed: {result.failure}", self.download_field, address)
        is_list = isinstance(wanted.value, list)
        if self.save_dir:
            paths = [r.path or a for r, a in zip(results, wanted.addresses, strict=True)]
            row = replaced(row, self.download_field or "", paths if is_list else paths[0])
        if self.content_field is not None:
            contents = [wanted.held.get(at, r.content) for at, r in enumerate(results)]
            row = replaced(row, self.content_field, contents if is_list else contents[0])
        return row


@dataclass
class _Wanted:
    """The addresses of a row as the field holds them and as a list; what is held already."""

    value: Any
    addresses: list[str]
    held: dict[int, Any] = field(default_factory=dict)


def file_name(address: str) -> str:
    """The last part of an address as a name for a file, without anything that leads elsewhere."""
    try:
        path = urlsplit(address).path if "://" in address else address
    except ValueError:  # half an IPv6 address
        path = address
    name = re.sub(r"[\x00-\x1f\x7f\\]+", "_", path.rpartition("/")[2]).lstrip(".")
    if unquote(name).strip(". ") == "":
        return "file"
    coded = name.encode("utf-8", "replace")
    if len(coded) > _LONGEST_NAME:
        stem, dot, suffix = coded.rpartition(b".")
        coded = (stem or suffix)[:150] + dot + suffix[:40]
    return coded.decode("utf-8", "ignore")


def claimed_name(folder: str, name: str, address: str) -> str:
    """`name`, or one with a hash of the address where `name` is another address's file.

    Who has a name is noted in the folder by a link that leads nowhere: making one
    is a single step, so that processes that ask at the same time get one answer.
    """
    owner = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    note = os.path.join(folder, _LEDGER, name)
    try:
        os.symlink(owner, note)
        return name
    except OSError:
        pass
    try:
        if os.readlink(note) == owner:
            return name
    except OSError:
        pass
    return hashed_name(name, owner)


def hashed_name(name: str, digest: str) -> str:
    """The name with some digits before its suffix."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{digest}{dot}{suffix}" if stem else f"{name}-{digest}"


@contextlib.contextmanager
def _whole_file(path: str) -> Iterator[Callable[[bytes], Any]]:
    """Writes to a hidden file that gets its name when all is written.

    Raises:
        DataError: no space or no permission; names the file.
    """
    part = os.path.join(os.path.dirname(path), f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        file = open(part, "wb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise _cannot_write(path, error) from None
    try:
        with file:
            yield _Writer(file, path)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


class _Writer:
    """Writes pieces; errors of the disk are no errors of the row."""

    def __init__(self, file: Any, path: str):
        self._file, self._path = file, path

    def __call__(self, piece: bytes) -> None:
        try:
            left = memoryview(piece)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _cannot_write(self._path, error) from None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise FetchError(f"cannot be read: {error.strerror}") from None


def _cannot_write(path: str, error: OSError) -> DataError:
    return DataError(
        f"cannot write {path}: {error.strerror}; free some space or choose another place"
    )
