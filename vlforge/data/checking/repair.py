"""A repaired copy of a dataset, and a log of every change."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from vlforge.data.checking.baking import bake, bake_file
from vlforge.data.checking.encodings import Recoded, is_text, is_utf8, recode
from vlforge.data.checking.findings import shortened
from vlforge.data.checking.pictures import is_link
from vlforge.data.checking.repairing import Change, Repairs, repair_record
from vlforge.data.json_lines import RowFile
from vlforge.data.placing import Mode, Placer
from vlforge.data.records import Fault, Format, Picture, Record
from vlforge.types import DataError, ProgressFn, no_progress

_TOLD_EVERY = 200
_UNCERTAIN = "encoding not certain, left as it was"


@dataclass
class Repaired:
    """Counts of a repair: `read` is `written` and `dropped`; `changes` by their names."""

    read: int = 0
    written: int = 0
    changed: int = 0
    dropped: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    log: Path = Path()


def repair(
    source: Path,
    target: Path,
    reader: Format,
    writer: Format,
    *,
    images: Mode = "auto",
    image_root: Path | None = None,
    mojibake: bool = False,
    progress: ProgressFn = no_progress,
) -> Repaired:
    """Write `source` repaired to `target`, and each change to `<target>.repair.jsonl`.

    Rows that cannot be read or written are in the log as well.

    Args:
        source: what `reader` reads; it is not touched.
        target: what `writer` writes.
        reader: the source's format.
        writer: the target's format.
        images: what becomes of the pictures; copied and embedded ones are made upright RGB.
        image_root: where the source's relative picture paths start; its folder otherwise.
        mojibake: repair texts that were decoded wrongly.
        progress: told the records so far.

    Raises:
        DataError: the source cannot be read, the target not written, or both are the same.
    """
    folder = target if target.is_dir() or not target.suffix else target.parent
    _check_places(source, target, images)
    target.parent.mkdir(parents=True, exist_ok=True)
    placer = Placer(images, folder, writer.holds.embedded)
    bakes = images in ("copy", "embed", "extract") or writer.holds.embedded
    done = Repaired(log=target.with_name(f"{target.name}.repair.jsonl"))
    with ExitStack() as stack:
        log = _Log(stack.enter_context(RowFile(done.log, as_array=False)), done)
        given = stack.enter_context(_Recoded(source, target, log))
        out = stack.enter_context(writer.writer(target))
        for found in reader.read(given.path):
            done.read += 1
            if isinstance(found, Fault):
                log.drop(found.line, None, found.reason, found.value)
                continue
            record = given.at_home(found, image_root)
            record, changes = repair_record(record, Repairs(mojibake))
            try:
                placed = _placed(record, placer)
                out.write(_bake(placed, record, changes) if bakes else placed)
            except (DataError, ValueError) as error:  # a null byte in a path is a ValueError
                log.drop(record.line, record.id, str(error), "")
                continue
            done.written += 1
            log.add(record, changes)
            if done.read % _TOLD_EVERY == 0:
                progress(done.read, None, f"{done.changed} repaired")
    progress(done.read, done.read, f"{done.changed} repaired")
    return done


def _check_places(source: Path, target: Path, images: Mode) -> None:
    if not source.exists():
        raise DataError(f"dataset {source} does not exist: check the path")
    here, there = source.resolve(), target.resolve()
    if here == there:
        raise DataError(f"{target}: source and target are the same; a repair is written anew")
    if images == "copy" and there.parent == (here if here.is_dir() else here.parent):
        raise DataError(f"{target}: copies would replace the source's pictures; use a new folder")
    if source.is_dir() and there.is_relative_to(here):
        raise DataError(f"{target}: lies in the source; name a place outside of {source}")


def _placed(record: Record, placer: Placer) -> Record:
    """The record with its pictures in place; links stay what they are.

    Raises:
        DataError: a picture cannot be read or written.
    """
    if not any(map(is_link, record.pictures)) or placer.embeds:
        return placer.place(record)
    files = tuple(picture for picture in record.pictures if not is_link(picture))
    placed = iter(placer.place(replace(record, pictures=files)).pictures)
    pictures = tuple(p if is_link(p) else next(placed) for p in record.pictures)
    return replace(record, pictures=pictures)


def _bake(placed: Record, given: Record, changes: list[Change]) -> Record:
    """The record with pictures upright and RGB: those in the data, and new files.

    A picture that stayed where it was is the source's and is not touched.
    """
    pictures = []
    for picture, before in zip(placed.pictures, given.pictures, strict=True):
        if picture.content is not None:
            baked = bake(picture.content)
            if baked is not None:
                changes.append(Change("picture", baked.change, f"upright RGB {baked.suffix}"))
                picture = replace(picture, content=baked.content)
        elif not is_link(picture) and not _is_same(picture, before):
            picture = _baked_copy(picture, Path(picture.place), changes)
        pictures.append(picture)
    return replace(placed, pictures=tuple(pictures))


def _is_same(one: Picture, other: Picture) -> bool:
    return other.content is None and os.path.realpath(one.place) == os.path.realpath(other.place)


def _baked_copy(picture: Picture, copy: Path, changes: list[Change]) -> Picture:
    change, path = bake_file(copy)
    if not change:
        return picture
    changes.append(Change("picture", f"{change}: {picture.path}", f"upright RGB: {path.name}"))
    return Picture(str(Path(picture.path).with_name(path.name)), picture.root)


class _Log:
    """A line for every change and every row that was left out."""

    def __init__(self, file: RowFile, done: Repaired):
        self._file, self._done = file, done

    def add(self, record: Record, changes: list[Change]) -> None:
        """The changes of a record that was written."""
        self._done.changed += bool(changes)
        for one in changes:
            self._done.changes[one.change] += 1
            self._put(record.line, record.id, one)

    def drop(self, line: int, number: Any, reason: str, value: str) -> None:
        """A row that is not in the new dataset."""
        self._done.dropped += 1
        self._put(line, number, Change("left out", value, reason))

    def encoding(self, found: Recoded) -> None:
        """A line of the file that was not UTF-8."""
        name = "encoding" if found.encoding else _UNCERTAIN
        self._done.changes[name] += 1
        after = "utf-8" if found.encoding else ""
        self._put(found.line, None, Change(name, found.encoding, after))

    def _put(self, line: int, number: Any, one: Change) -> None:
        before, after = shortened(one.before, 2000), shortened(one.after, 2000)
        self._file.write(
            {"line": line, "id": number, "change": one.change, "before": before, "after": after}
        )


class _Recoded:
    """The source, or a copy of it in UTF-8 for as long as it is read."""

    def __init__(self, source: Path, target: Path, log: _Log):
        self.path = self._source = source
        self._folder = target.with_name(f".{target.name}.utf8")
        self._log = log

    def __enter__(self) -> _Recoded:
        if not is_text(self._source) or is_utf8(self._source):
            return self
        self._folder.mkdir(exist_ok=True)
        name = self._source.name.removesuffix(".gz").removesuffix(".zst")
        self.path = self._folder / name
        with self.path.open("wb") as file:
            for found in recode(self._source, file):
                self._log.encoding(found)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def at_home(self, record: Record, root: Path | None) -> Record:
        """The record with its pictures where the source means them to be."""
        if self.path is self._source and root is None:
            return record
        home = os.path.abspath(root or self._source.parent)
        return replace(record, pictures=tuple(_homed(record.pictures, home)))


def _homed(pictures: tuple[Picture, ...], home: str) -> Iterator[Picture]:
    for picture in pictures:
        yield replace(picture, root=home) if picture.root else picture
