"""Encoded rows in a folder of the stage: written once, then read by place.

Memory holds numbers of a row (lengths, where it begins, which pictures), which must be
known before the first step; ids, labels, words of places and of pictures stay on disk.
A folder appears under its name when it is whole, and its name says what it was made of:
a stage that goes on, and the other processes of a stage, find it and encode nothing. One
that is damaged is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlforge.training.batches import RowImages, TokenRows, count_supervised
from vlforge.training.disk_lists import DiskWords, DiskWordsWriter, cannot_write
from vlforge.training.picture_sources import SourceWriter, WrittenSources
from vlforge.types import DataError

IN_MEMORY = 256 << 20
"""Bytes of ids and labels up to which they are held in memory."""
PREFIX = ".rows-"
_TOKENS, _PLACES, _INDEX, _FACTS = "tokens.bin", "places.words", "index.npz", "facts"
_BAD, _LATE = "bad.json", "late.jsonl"
_UNCHECKED = (SourceWriter.HELD,)
"""Files of which only the size is held against what was written: pictures, checked when read."""
_PIECE = 1 << 22


@dataclass(frozen=True)
class Coded:
    """A row as ids, and what a sieve looks at.

    tokens: ids and behind them labels, int32.
    images: how many of the row's pictures are still there.
    """

    tokens: bytes
    images: int
    length: int
    whole: int
    lost_images: int
    problem: str | None


class RowsWriter:
    """Writes the rows of one dataset after the other."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.sources = SourceWriter(folder)
        self._tokens = (folder / _TOKENS).open("wb", buffering=1 << 20)
        self._places = DiskWordsWriter(folder / _PLACES)
        self._numbers = {name: array("i") for name in ("texts", "lengths", "supervised", "words")}
        self._counts, self._images = array("i"), array("i")
        self._ends: list[int] = []
        self._digest = hashlib.sha256()

    def begin(self, dataset: str) -> None:
        """Rows that come now are of this dataset."""
        self.sources.begin(dataset)
        self._ends.append(len(self._places))

    def add(self, row: Coded, images: tuple[int, ...], words: int, place: str) -> None:
        """Add a row; `images` are its pictures' numbers, `place` is how it is named.

        Raises:
            WriteError: the disk is full.
        """
        try:
            self._tokens.write(row.tokens)
        except OSError as error:
            raise cannot_write(self.folder / _TOKENS, error) from None
        self._digest.update(row.tokens)
        labels = np.frombuffer(row.tokens, dtype=np.int32)[len(row.tokens) // 8 :]
        told = (len(labels), row.length, count_supervised(labels), words)
        for numbers, value in zip(self._numbers.values(), told, strict=True):
            numbers.append(value)
        self._counts.append(len(images))
        self._images.extend(images)
        self._places.add(place)

    def close(self, facts: dict[str, Any]) -> None:
        """Nothing comes any more; `facts` are kept beside the rows.

        Raises:
            WriteError: the disk is full.
        """
        self._places.close()
        sizes, pictures = self.sources.close()
        try:
            self._tokens.close()
            index = {name: np.asarray(numbers) for name, numbers in self._numbers.items()}
            index |= {"counts": np.asarray(self._counts), "images": np.asarray(self._images)}
            np.savez(self.folder / _INDEX, **index, sizes=np.asarray(sizes).reshape(-1, 2))
            images = [zlib.crc32(one.tobytes()) for one in (self._counts, self._images)]
            whole = f"{self._digest.hexdigest()} {pictures} {images}"
            told = {"ends": [*self._ends[1:], len(self._places)], "digest": whole, **facts}
            told["files"] = {path.name: _seal(path) for path in sorted(self.folder.iterdir())}
            text = json.dumps(told)
            (self.folder / _FACTS).write_text(f"{text}\n{zlib.crc32(text.encode())}")
        except OSError as error:
            raise cannot_write(self.folder / _INDEX, error) from None


@dataclass(frozen=True)
class WrittenRows:
    """Rows found in a folder.

    ends: number of the first row behind each dataset.
    words: of each row's turns, [R].
    picture_sizes: width and height of each picture, [I, 2].
    digest: changes when an id, a label, a picture's name or its place in a row changes.
    """

    folder: Path
    rows: TokenRows
    ends: tuple[int, ...]
    words: np.ndarray
    places: DiskWords
    sources: WrittenSources
    picture_sizes: np.ndarray
    facts: dict[str, Any]
    digest: str

    @classmethod
    def of(cls, folder: Path) -> WrittenRows:
        """What a folder holds.

        Raises:
            DataError: it is not whole.
        """
        try:
            text, _, checksum = (folder / _FACTS).read_text().rpartition("\n")
            if zlib.crc32(text.encode()) != int(checksum):
                raise DataError(f"{folder / _FACTS} is damaged")
            facts = json.loads(text)
            for name, seal in facts["files"].items():
                if _seal(folder / name) != seal:
                    raise DataError(f"{folder / name} is damaged")
            with np.load(folder / _INDEX) as file:
                index = {name: file[name].astype(np.int64) for name in file.files}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder} is not whole: {error}") from None
        texts, counts = index["texts"], index["counts"]
        images = RowImages(index["images"], np.cumsum(counts) - counts, counts)
        rows = TokenRows(
            tokens=_open_tokens(folder / _TOKENS),
            starts=2 * (np.cumsum(texts) - texts),
            texts=texts,
            lengths=index["lengths"],
            supervised=index["supervised"],
            images=images,
        )
        return cls(
            folder=folder,
            rows=rows,
            ends=tuple(facts["ends"]),
            words=index["words"],
            places=DiskWords(folder / _PLACES),
            sources=WrittenSources(folder),
            picture_sizes=index["sizes"],
            facts=facts,
            digest=facts["digest"],
        )

    def bad_at_start(self) -> dict[int, str] | None:
        """Pictures that could not be read when the stage began; None where that is not known."""
        try:
            found = json.loads((self.folder / _BAD).read_text())
            return {int(number): str(why) for number, why in found.items()}
        except (OSError, ValueError, AttributeError):
            return None

    def keep_bad_at_start(self, bad: dict[int, str]) -> dict[int, str]:
        """Note what could not be read; what another process noted first is what counts.

        Raises:
            WriteError: the disk is full.
        """
        with _alone(self.folder):
            known = self.bad_at_start()
            if known is None:
                try:
                    half = self.folder / f"{_BAD}.half"
                    half.write_text(json.dumps(bad))
                    half.replace(self.folder / _BAD)
                except OSError as error:
                    raise cannot_write(self.folder / _BAD, error) from None
        return bad if known is None else known

    def late(self) -> dict[int, str]:
        """Pictures that turned out unreadable while a process of this stage trained."""
        found: dict[int, str] = {}
        with contextlib.suppress(OSError):
            for line in (self.folder / _LATE).read_text().splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    number, why = json.loads(line)
                    found.setdefault(int(number), str(why))
        return found

    def add_late(self, number: int, why: str) -> None:
        """Note one; a line is written at once, so that it outlives the process.

        Raises:
            WriteError: the disk is full.
        """
        line = json.dumps([number, why]).encode() + b"\n"
        try:
            file = os.open(self.folder / _LATE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise cannot_write(self.folder / _LATE, error) from None
        try:
            os.write(file, line)
        except OSError as error:
            raise cannot_write(self.folder / _LATE, error) from None
        finally:
            os.close(file)


class TokenFile:
    """Ids and labels that stay on disk; see `DiskWords` for why they are not mapped."""

    def __init__(self, path: Path):
        self._path, self._file = path, os.open(path, os.O_RDONLY)

    def __getitem__(self, at: slice) -> np.ndarray:
        count = at.stop - at.start
        data = os.pread(self._file, 4 * count, 4 * at.start)
        if len(data) < 4 * count:
            raise DataError(f"{self._path} was cut while the stage runs: start it again")
        return np.frombuffer(data, dtype=np.int32)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def find_or_write(
    home: Path, key: str, write: Callable[[RowsWriter], dict[str, Any]]
) -> tuple[WrittenRows, bool]:
    """The rows of that key in `home`, and whether they were there already.

    Processes that want the same wait for the one that writes.

    Args:
        write: encodes all rows; gives the facts that are kept beside them.
    """
    target = home / f"{PREFIX}{key}"
    with _alone(home) as is_alone:
        with contextlib.suppress(DataError):
            return WrittenRows.of(target), True
        if is_alone:
            for half in home.glob(f"{PREFIX}*.half"):
                shutil.rmtree(half, ignore_errors=True)
        _write(home, target, write)
        return WrittenRows.of(target), False


def _write(home: Path, target: Path, write: Callable[[RowsWriter], dict[str, Any]]) -> None:
    try:
        half = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=".half", dir=home))
    except OSError as error:
        raise cannot_write(home / PREFIX, error) from None
    try:
        rows = RowsWriter(half)
        rows.close(write(rows))
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)
    except OSError as error:
        # Where locks are not known, another process may have been faster with the same.
        if not target.exists():
            raise cannot_write(target, error) from None
    finally:
        shutil.rmtree(half, ignore_errors=True)


def drop_encoded(home: Path) -> None:
    """Remove the rows that a stage encoded, once its model is stored."""
    for folder in home.glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Holds the folder while the block runs, however long another has it; whether that works."""
    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            is_alone = True
        except OSError:  # Some network file systems know no locks.
            is_alone = False
        yield is_alone
    finally:
        os.close(file)


def _seal(path: Path) -> list[int]:
    """Size and checksum of a file."""
    total = size = 0
    if path.name in _UNCHECKED:
        return [path.stat().st_size, 0]
    with path.open("rb", buffering=0) as file:
        while data := file.read(_PIECE):
            total, size = zlib.crc32(data, total), size + len(data)
    return [size, total]


def _open_tokens(path: Path) -> np.ndarray | TokenFile:
    if path.stat().st_size > IN_MEMORY:
        return TokenFile(path)
    return np.fromfile(path, dtype=np.int32)
