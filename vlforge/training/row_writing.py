"""Datasets of a stage become written rows, whatever family its model is of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlforge.training.config import Mixture
from vlforge.training.encoded_rows import Coded, RowsWriter, WrittenRows, find_or_write
from vlforge.training.mixture import samples_of
from vlforge.training.row_coding import Measure, Read, encode_all
from vlforge.training.rows import Dropped, Sieve
from vlforge.types import DataError, LogFn, ProgressFn, Sample

FoundIn = Callable[[Mixture], Iterator[tuple[Read, Coded | None]]]
"""The rows of a dataset, each with its code."""


def write_or_find(
    parts: Sequence[Mixture],
    image_root: str | None,
    coder: Any,
    measure: Measure,
    sieve: Sieve,
    key: str,
    *,
    scratch: Path | None,
    threads: int,
    progress: ProgressFn,
    log: LogFn,
) -> tuple[WrittenRows, Any]:
    """The rows of that key in `scratch`, and what they are gone with.

    Without a folder of the stage's own all is gone with this process.

    Args:
        coder: a `RowCoder`, or what encodes as one does.
    """
    own = None if scratch else tempfile.TemporaryDirectory(prefix="vlforge-")

    def found_in(part: Mixture) -> Iterator[tuple[Read, Coded | None]]:
        return encode_all(coder, _read(part, image_root, measure), threads, progress, log)

    def write(rows: RowsWriter) -> dict[str, Any]:
        return _write(rows, parts, sieve, found_in)

    written, was_there = find_or_write(scratch or Path(own.name if own else ""), key, write)
    if was_there:
        sieve.restore(written.facts["sieve"])
    log({"event": "encoded", "rows": len(written.rows), "found": was_there})
    return written, own


def check_usable(parts: Sequence[Mixture], sizes: Sequence[int], dropped: Dropped) -> None:
    """Raise for a dataset without a row.

    Raises:
        DataError: names it, and why its rows were left out.
    """
    for part, size in zip(parts, sizes, strict=True):
        if not size:
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.counts.items())
            raise DataError(f"{part.path}: no usable row ({reasons or 'the file is empty'})")


def _write(
    rows: RowsWriter, parts: Sequence[Mixture], sieve: Sieve, found_in: FoundIn
) -> dict[str, Any]:
    """Write the rows that are trained on; what is told of the others."""
    rows_read = 0
    for part in parts:
        rows.begin(part.path)
        for read, coded in found_in(part):
            rows_read += read.sample is not None
            if read.sample is None or coded is None:
                sieve.dropped.add(read.reason, read.detail, read.place)
            elif sieve.keeps(coded, read.place):
                kept = zip(read.sample.images[: coded.images], read.sizes, strict=False)
                images = tuple([rows.sources.number(*one) for one in kept])
                rows.add(coded, images, _words(read.sample), read.place)
    sieve.check()
    return {"rows_read": rows_read, "sieve": sieve.state()}


def _read(part: Mixture, image_root: str | None, measure: Measure) -> Iterator[Read]:
    """The rows of a dataset, bad ones among them in their places."""
    name = Path(part.path).name
    waiting: list[Read] = []

    def bad(number: int, error: DataError) -> None:
        waiting.append(Read(f"{name}:{number}", reason="unreadable row", detail=str(error)))

    for sample in samples_of(part, image_root, bad):
        yield from waiting
        waiting.clear()
        yield Read.of(sample, f"{name}:{sample.id}", measure)
    yield from waiting


def _words(sample: Sample) -> int:
    return sum(len(turn.text.split()) for turn in sample.turns if turn.role != "system")
