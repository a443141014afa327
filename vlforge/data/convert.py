"""One dataset into another format: one pass, constant memory, every record accounted for."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from vlforge.data.json_lines import encode
from vlforge.data.new_folder import write_error
from vlforge.data.placing import Mode, Placer
from vlforge.data.records import Fault, Format, Record, Writer, check_fit, with_marks
from vlforge.types import DataError, ProgressFn, no_progress

_TOLD_EVERY = 200


@dataclass
class Converted:
    """Counts of a conversion: `read` is `written` and the sum of `dropped`."""

    read: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    paths: list[Path] = field(default_factory=list)
    drops: Path | None = None
    """The list of dropped records, where there are any."""


def convert(
    source: Path,
    target: Path,
    reader: Format,
    writer: Format,
    *,
    images: Mode = "auto",
    image_root: Path | None = None,
    shard_rows: int = 0,
    progress: ProgressFn = no_progress,
) -> Converted:
    """Read `source` as one format and write `target` as another.

    A record that the target cannot hold, or whose picture is not there, is
    listed with its reason in `<target>.dropped.jsonl` and does not stop the rest.

    Args:
        source: what `reader` reads.
        target: what `writer` writes; nothing is there under that name until it is complete.
        reader: the source's format.
        writer: the target's format.
        images: what becomes of the pictures.
        image_root: write picture paths relative to this folder.
        shard_rows: records per output file; 0 writes one.
        progress: told the records so far.

    Raises:
        DataError: the source cannot be read, the target not opened, or both are the same.
        WriteError: the disk is full; what was written is gone again.
    """
    if target.absolute() == source.absolute():
        raise DataError(f"{target}: source and target are the same; name another target")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target if target.is_dir() or not target.suffix else target.parent
    placer = Placer(images, folder, writer.holds.embedded, image_root)
    done = Converted()
    with ExitStack() as stack:
        drops = Drops(target.with_name(f"{target.name}.dropped.jsonl"))
        stack.enter_context(drops)
        shards = stack.enter_context(_Shards(writer, target, shard_rows, done))
        for found in reader.read(source):
            done.read += 1
            fault = found if isinstance(found, Fault) else _write(found, writer, placer, shards)
            if fault is None:
                done.written += 1
            else:
                done.dropped[fault.reason] += 1
                drops.add(fault, found)
            if done.read % _TOLD_EVERY == 0:
                progress(done.read, None, f"{done.written} written")
    progress(done.read, done.read, f"{done.written} written")
    done.drops = drops.path if done.dropped else None
    return done


def _write(record: Record, format_: Format, placer: Placer, shards: _Shards) -> Fault | None:
    try:
        marked = with_marks(record)
        check_fit(marked, format_.holds)
        shards.write(placer.place(marked))
    except DataError as error:
        reason, _, value = str(error).partition(": ")
        return Fault(record.line, reason, value)
    except OSError as error:
        raise write_error(shards.target, error) from None
    return None


class _Shards:
    """A writer, or one after the other."""

    def __init__(self, format_: Format, target: Path, rows: int, done: Converted):
        self.format, self.target, self.rows, self.done = format_, target, rows, done
        self._open: Writer | None = None
        self._count = 0
        self._shards = 0

    def __enter__(self) -> _Shards:
        self._next()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._open is None:
            return
        try:
            self._open.__exit__(kind, error, trace)
        except OSError as failure:
            if kind is None:
                raise write_error(self.target, failure) from None

    def write(self, record: Record) -> None:
        """Add a record, to a new shard where the last one is full."""
        assert self._open is not None
        if self.rows and self._count == self.rows:
            self._open.__exit__(None, None, None)
            self._next()
        self._open.write(record)
        self._count += 1

    def _next(self) -> None:
        path = self.target
        if self.rows:
            path = path.with_name(f"{path.stem}-{self._shards:05d}{path.suffix}")
        self._open = self.format.writer(path).__enter__()
        self.done.paths.append(path)
        self._count = 0
        self._shards += 1


class Drops:
    """The list of dropped records, written beside the target and only if there are any."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> Drops:
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, fault: Fault, found: Record | Fault) -> None:
        """One line."""
        if self._file is None:
            self._file = self.path.open("wb")
        number = found.id if isinstance(found, Record) else None
        told = {"line": fault.line, "id": number, "reason": fault.reason, "value": fault.value}
        self._file.write(encode(told) + b"\n")
