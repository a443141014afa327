"""Rows of a native model: ids written before the first step, pixels made just in time.

What the processor writes for a picture follows from its size, so that rows are encoded
without reading pixels (`models/native_outline.py`). Long runs of picture tokens are kept
as a token and how often it comes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlforge.data.images import ImageError, header_size
from vlforge.inference.native import native_base
from vlforge.models import native, native_outline
from vlforge.models.native import NativeEncoded
from vlforge.models.native_outline import Outliner, Size
from vlforge.models.native_parts import NativeParts
from vlforge.text.templates import Template
from vlforge.training.config import TrainConfig
from vlforge.training.conversations import ConversationData
from vlforge.training.encoded_rows import Coded, RowsWriter, WrittenRows, find_or_write
from vlforge.training.mixture import mixtures, samples_of
from vlforge.training.native_pictures import NativePictures
from vlforge.training.row_coding import MISFIT, Read, encode_all, rows_key
from vlforge.training.rows import Sieve
from vlforge.types import IGNORE_INDEX, DataError, LogFn, ProgressFn, Sample, no_log, no_progress

SHORTEST_RUN = 3
"""Equal tokens from which on a run is kept as two numbers."""


def shorten(ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same row with runs of equal tokens that are not learned as (token, -length)."""
    same = (ids[1:] == ids[:-1]) & (labels[1:] == IGNORE_INDEX) & (labels[:-1] == IGNORE_INDEX)
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    counts = np.diff(np.append(starts, len(ids)))
    is_run = counts >= SHORTEST_RUN
    kept = np.repeat(starts, np.where(is_run, 2, counts))
    first = np.concatenate([[True], kept[1:] != kept[:-1]])
    short_ids, short_labels = ids[kept].copy(), labels[kept].copy()
    marks = ~first & np.repeat(is_run, np.where(is_run, 2, counts))
    short_ids[marks] = -counts[is_run]
    return short_ids, short_labels


def lengthen(ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `shorten` was given."""
    marks = np.flatnonzero(ids < 0)
    times = np.ones(len(ids), dtype=np.int64)
    times[marks - 1] = -ids[marks]
    times[marks] = 0
    return np.repeat(ids, times), np.repeat(labels, times)


@dataclass(frozen=True)
class NativeCoder:
    """Encodes samples whose pictures are known by width and height.

    template: None is the model's own chat template.
    """

    outline: Outliner
    template: Template | None
    max_length: int
    compat: None = None

    @property
    def tokenizer(self) -> Any:
        """The processor's own."""
        return self.outline.native.tokenizer

    def adapted(self) -> NativeCoder:
        """Itself."""
        return self

    def code(self, sample: Sample, sizes: Sequence[Any]) -> Coded | str:
        """A row as bytes, or why it does not fit the template."""
        try:
            row: NativeEncoded = self.outline(sample, sizes, self.template, self.max_length)
        except DataError as error:
            return str(error)
        ids, labels = (np.asarray(part, dtype=np.int32) for part in (row.ids, row.labels))
        tokens = np.concatenate(shorten(ids, labels)).astype(np.int32).tobytes()
        images = len(sample.images) - row.lost_images
        return Coded(tokens, images, row.length, row.whole, row.lost_images, row.problem)

    def rules(self) -> tuple[str, ...]:
        """What decides rows beside data, configuration and tokenizer."""
        processor = self.outline.native.processor
        files = [Path(str(module.__file__)) for module in (native, native_outline)]
        code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        chat = str(getattr(processor, "chat_template", ""))
        return (code, chat, processor.image_processor.to_json_string())


def read_native(
    config: TrainConfig,
    model: NativeParts,
    template: Template | None,
    sieve: Sieve,
    *,
    threads: int = 1,
    scratch: Path | None = None,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> ConversationData:
    """Read and encode a stage's datasets; a bad row costs only itself and is counted.

    What was encoded stays in `scratch`, as with `read_conversations`.

    Raises:
        DataError: a file cannot be read, a row is refused, or a dataset has no usable row.
        WriteError: no room for what is encoded.
    """
    coder = NativeCoder(Outliner(model.whole), template, sieve.max_length)
    if coder.outline.is_slow(template):
        kind = type(model.whole.processor).__name__
        log({"event": "warning", "text": f"{kind} is shown a blank picture for each row's ids"})
    own = None if scratch else tempfile.TemporaryDirectory(prefix="vlforge-")
    home = scratch or Path(own.name if own else "")
    rules = (sieve.on_too_long, sieve.on_no_labels, *coder.rules())
    key = rows_key(mixtures(config.data), config.image_root, model, coder, rules)  # type: ignore[arg-type]

    def write(rows: RowsWriter) -> dict[str, Any]:
        return _write(rows, config, coder, sieve, threads, progress, log)

    written, was_there = find_or_write(home, key, write)
    if was_there:
        sieve.restore(written.facts["sieve"])
    log({"event": "encoded", "rows": len(written.rows), "found": was_there})
    sizes = _sizes(config, written, sieve)
    pictures = NativePictures(
        model.whole,
        written.sources,
        written.picture_sizes,
        threads,
        decode=config.decode,
        folder=native_base(Path(str(config.model))),
    )
    pictures.bad |= written.late()
    return ConversationData(
        rows=written.rows,
        sizes=sizes,
        pictures=pictures,  # type: ignore[arg-type]
        sieve=sieve,
        rows_read=written.facts["rows_read"],
        words=written.words,
        numbers=np.arange(len(written.rows)),
        written=written,
        keeps_alive=own,
    )


def _write(
    rows: RowsWriter,
    config: TrainConfig,
    coder: NativeCoder,
    sieve: Sieve,
    threads: int,
    progress: ProgressFn,
    log: LogFn,
) -> dict[str, Any]:
    """Encode all rows; gives the facts that are kept beside them."""
    rows_read = 0
    for part in mixtures(config.data):
        rows.begin(part.path)
        found = _read(part, config.image_root)
        for read, coded in encode_all(coder, found, threads, progress, log):  # type: ignore[arg-type]
            rows_read += read.sample is not None
            if read.reason or coded is None:
                sieve.dropped.add(read.reason, read.detail, read.place)
            elif sieve.keeps(coded, read.place):
                _add(rows, read, coded)
    sieve.check()
    return {"rows_read": rows_read, "sieve": sieve.state()}


def _sizes(config: TrainConfig, written: WrittenRows, sieve: Sieve) -> tuple[int, ...]:
    """Usable rows of each dataset; every one has some."""
    starts = (0, *written.ends[:-1])
    sizes = tuple(end - start for start, end in zip(starts, written.ends, strict=True))
    for part, size in zip(mixtures(config.data), sizes, strict=True):
        if not size:
            counts = sieve.dropped.counts
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            raise DataError(f"{part.path}: no usable row ({reasons or 'the file is empty'})")
    return sizes


def _add(rows: RowsWriter, read: Read, coded: Coded) -> None:
    assert read.sample is not None
    kept = zip(read.sample.images[: coded.images], read.sizes, strict=False)
    images = tuple(rows.sources.number(*one) for one in kept)
    words = sum(len(turn.text.split()) for turn in read.sample.turns if turn.role != "system")
    rows.add(coded, images, words, read.place)


def _read(part: Any, image_root: str | None) -> Iterator[Read]:
    """The rows of a dataset, bad ones among them in their places."""
    name = Path(part.path).name
    waiting: list[Read] = []

    def bad(number: int, error: DataError) -> None:
        waiting.append(Read(f"{name}:{number}", reason="unreadable row", detail=str(error)))

    for sample in samples_of(part, image_root, bad):
        yield from waiting
        waiting.clear()
        yield _sized(sample, f"{name}:{sample.id}")
    yield from waiting


def _sized(sample: Sample, place: str) -> Read:
    """A sample with the sizes of its pictures, from their headers."""
    try:
        sizes: tuple[Size, ...] = tuple(tuple(header_size(one)) for one in sample.images)
        return Read(place, sample, sizes, sizes)  # type: ignore[arg-type]
    except DataError as error:
        what = "unreadable picture" if isinstance(error, ImageError) else MISFIT
        return Read(place, sample, reason=what, detail=str(error))
