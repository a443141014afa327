"""Rows of a native model: ids written before the first step, pixels made just in time.

What the processor writes for a picture follows from its size, so that rows are encoded
without reading pixels (`models/native_outline.py`). Long runs of picture tokens are kept
as a token and how often it comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlforge.data.images import header_size
from vlforge.inference.native import native_base
from vlforge.models import native, native_outline
from vlforge.models.native import NativeEncoded
from vlforge.models.native_outline import Outliner, Size
from vlforge.models.native_parts import NativeParts
from vlforge.text.templates import Template
from vlforge.training.config import TrainConfig
from vlforge.training.conversations import ConversationData
from vlforge.training.encoded_rows import Coded
from vlforge.training.mixture import mixtures
from vlforge.training.native_pictures import NativePictures
from vlforge.training.row_coding import rows_key
from vlforge.training.row_writing import check_usable, write_or_find
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
    parts = mixtures(config.data)
    rules = (sieve.on_too_long, sieve.on_no_labels, *coder.rules())
    key = rows_key(parts, config.image_root, model, coder, rules)  # type: ignore[arg-type]
    run: dict[str, Any] = {"threads": threads, "progress": progress, "log": log}
    written, own = write_or_find(
        parts, config.image_root, coder, _measured, sieve, key, scratch=scratch, **run
    )
    starts = (0, *written.ends[:-1])
    sizes = tuple(end - start for start, end in zip(starts, written.ends, strict=True))
    check_usable(parts, sizes, sieve.dropped)
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


def _measured(images: Sequence[str | bytes]) -> tuple[tuple[Size, ...], tuple[Size, ...]]:
    """Sizes of pictures, from their headers: what they take follows from these."""
    sizes = tuple(map(header_size, images))
    return sizes, sizes
