"""Samples become encoded rows, in order: here, or in helper processes where it takes long.

What a row becomes depends on the row alone, so that neither the number of processes nor
how rows are handed to them changes a byte.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import vlforge
from vlforge.data.detect import files_of_pattern
from vlforge.data.images import ImageError
from vlforge.models.base import VisionLanguageModel
from vlforge.models.encoding import Encoded, encode_sample
from vlforge.models.parts.anyres import Size
from vlforge.text.templates import Template
from vlforge.text.tokenizers import adapt
from vlforge.training.config import Mixture
from vlforge.training.encoded_rows import Coded
from vlforge.training.workers import Worker, Workers
from vlforge.types import DataError, LogFn, ProgressFn, Sample

CHUNK = 64
"""Rows that go to a process at once."""
SPREAD_AFTER_S = 10.0
"""Seconds after which rows that are still to come are spread over processes."""
TOLD_EVERY_S = 1.0
_HEAD = 1 << 16
_MOST_READ = 1000
_CODE = (
    "data", "text", "models/encoding.py", "training/row_coding.py", "training/rows.py",
    "training/mixture.py", "training/encoded_rows.py", "training/picture_sources.py",
    "training/row_writing.py",
)  # fmt: skip
"""What of this package decides how a row is read and encoded."""


@dataclass(frozen=True)
class RowCoder:
    """Encodes samples: all that a helper process must know.

    With `compat` labels are those of a reference system, see `encode_turns`.
    """

    template: Template
    tokenizer: Any
    max_length: int | None
    compat: str | None = None

    def adapted(self) -> RowCoder:
        """The same, ready to encode many."""
        return replace(self, tokenizer=adapt(self.tokenizer))

    def encode(self, sample: Sample, counts: list[int]) -> Encoded:
        """A sample whose pictures take so many tokens each.

        Raises:
            DataError: it does not fit the template.
        """
        return encode_sample(
            sample,
            self.template,
            self.tokenizer,
            image_tokens=counts,
            max_length=self.max_length,
            compat=self.compat,
        )

    def code(self, sample: Sample, counts: list[int]) -> Coded | str:
        """The same as bytes, or why it does not fit the template."""
        try:
            row = self.encode(sample, counts)
        except DataError as error:
            return str(error)
        tokens = np.asarray([row.ids, row.labels], dtype=np.int32).tobytes()
        found = (row.length, row.whole, row.lost_images, row.problem)
        return Coded(tokens, len(row.images), *found)


Measure = Callable[[Sequence[str | bytes]], tuple[tuple[Size, ...], tuple[Any, ...]]]
"""Sizes of a row's pictures, and what its coder is told of each."""


@dataclass(frozen=True)
class Read:
    """A row as it was read: a sample to encode, or why it is none.

    counts: tokens of each picture, or what else its coder is told of it.
    place: how messages name it.
    """

    place: str
    sample: Sample | None = None
    sizes: tuple[Size, ...] = ()
    counts: tuple[Any, ...] = ()
    reason: str = ""
    detail: str = ""

    @classmethod
    def of(cls, sample: Sample, place: str, measure: Measure) -> Read:
        """A sample with what its pictures take."""
        try:
            return cls(place, sample, *measure(sample.images))
        except DataError as error:
            what = "unreadable picture" if isinstance(error, ImageError) else MISFIT
            return cls(place, sample, reason=what, detail=str(error))


MISFIT = "does not fit the template"


def encode_all(
    coder: RowCoder,
    rows: Iterable[Read],
    processes: int,
    progress: ProgressFn,
    log: LogFn,
) -> Iterator[tuple[Read, Coded | None]]:
    """Every row with its code, in order; None and a reason where it has none.

    Helper processes are started where that takes longer than `SPREAD_AFTER_S` and
    `processes` are more than one.
    """
    started = told = time.monotonic()
    done = 0
    for chunk, found in _coded(coder, _chunks(rows), processes, log):
        yield from _settled(chunk, found)
        done, now = done + len(chunk), time.monotonic()
        if now - told >= TOLD_EVERY_S:
            progress(done, None, f"encoding rows, {done / (now - started):,.0f}/s")
            told = now


def _chunks(rows: Iterable[Read]) -> Iterator[list[Read]]:
    left = iter(rows)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def _coded(
    coder: RowCoder, chunks: Iterator[list[Read]], processes: int, log: LogFn
) -> Iterator[tuple[list[Read], list[Coded | str]]]:
    here, started = coder.adapted(), time.monotonic()
    for chunk in chunks:
        yield chunk, [here.code(*_question(row)) for row in chunk if not row.reason]
        if processes > 1 and time.monotonic() - started >= SPREAD_AFTER_S:
            break
    else:
        return
    if not _travels(coder):
        log({"event": "encode", "text": "this tokenizer cannot be given to other processes"})
        for chunk in chunks:
            yield chunk, [here.code(*_question(row)) for row in chunk if not row.reason]
        return
    log({"event": "encode", "processes": processes})
    yield from _spread(coder, chunks, processes)


def _spread(
    coder: RowCoder, chunks: Iterator[list[Read]], processes: int
) -> Iterator[tuple[list[Read], list[Coded | str]]]:
    workers = Workers(lambda: Worker(CodingHelper, (coder,)))
    under_way: deque[tuple[list[Read], Future[list[Coded | str]]]] = deque()

    def ask(chunk: list[Read]) -> list[Coded | str]:
        asked = [_question(row) for row in chunk if not row.reason]
        return workers.ask(asked, f"rows from {chunk[0].place}", lambda _, answer: answer)

    with closing(workers), ThreadPoolExecutor(processes) as pool:
        for chunk in chunks:
            under_way.append((chunk, pool.submit(ask, chunk)))
            if len(under_way) > 2 * processes:
                done, answer = under_way.popleft()
                yield done, answer.result()
        for done, answer in under_way:
            yield done, answer.result()


class CodingHelper:
    """A `RowCoder` in a helper process."""

    def __init__(self, memory: mmap.mmap | None, coder: RowCoder):
        self._coder = coder.adapted()

    def __call__(self, question: list[tuple[Sample, list[int]]]) -> list[Coded | str]:
        """The codes of some samples."""
        return [self._coder.code(*one) for one in question]


def _question(row: Read) -> tuple[Sample, list[int]]:
    """What is needed of a row to encode it: pictures are but counted."""
    assert row.sample is not None
    named = tuple(str(at) for at in range(len(row.sample.images)))
    return Sample(row.sample.id, named, row.sample.turns), list(row.counts)


def _settled(chunk: list[Read], found: list[Coded | str]) -> Iterator[tuple[Read, Coded | None]]:
    codes = iter(found)
    for row in chunk:
        code = None if row.reason else next(codes)
        if isinstance(code, str):
            yield replace(row, reason=MISFIT, detail=code), None
        else:
            yield row, code


def _travels(coder: RowCoder) -> bool:
    """Whether another process can be given it."""
    try:
        pickle.dumps(coder)
    except Exception:
        return False
    return True


# --- what encoded rows depend on


def rows_key(
    parts: Iterable[Mixture],
    image_root: str | None,
    model: VisionLanguageModel,
    coder: RowCoder,
    rules: tuple[str, ...],
) -> str:
    """A name for encoded rows that changes with all that decides them.

    Data are known by names, sizes, times and ends of their files: shards of a terabyte
    are not read twice.

    Args:
        rules: how rows are sieved.
    """
    import tokenizers
    import transformers

    told = {
        "data": [asdict(part) | {"files": _stamps(part)} for part in parts],
        "image_root": image_root,
        "model": [model.config.to_json_string(use_diff=False), model.needs_sizes],
        "template": repr(coder.template),
        "tokenizer": _tokenizer_digest(coder.tokenizer),
        "settings": [coder.max_length, coder.compat, *rules],
        "code": _code_digest(),
        "versions": [vlforge.__version__, transformers.__version__, tokenizers.__version__],
    }
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _stamps(part: Mixture) -> list[list[Any]]:
    """Name, size, time and, unless they are very many, a digest of both ends of each file."""
    found: list[list[Any]] = []
    for path in filter(None, (part.path, part.questions, part.prompts)):
        files = _files(Path(path))
        for file in files:
            try:
                told = file.stat()
                ends = _ends(file, told.st_size) if len(files) <= _MOST_READ else ""
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
            found.append([str(file), told.st_size, told.st_mtime_ns, ends])
    return found


def _ends(path: Path, size: int) -> str:
    with path.open("rb", buffering=0) as file:
        data = file.read(_HEAD) + os.pread(file.fileno(), _HEAD, max(0, size - _HEAD))
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.is_file())
    return [path] if path.is_file() else files_of_pattern(str(path))


def _tokenizer_digest(tokenizer: Any) -> str:
    """Changes with anything that a tokenizer says of itself."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    backend = getattr(inner, "backend_tokenizer", getattr(inner, "backend", None))
    parts: list[Any] = [type(tokenizer).__name__, type(inner).__name__]
    if backend is not None and hasattr(backend, "to_str"):
        parts.append(backend.to_str())
    elif hasattr(inner, "get_vocab"):
        parts.append(sorted(inner.get_vocab().items()))
    parts += [
        (name, value.hex() if isinstance(value, bytes) else repr(value))
        for name, value in sorted(vars(inner).items())
        if isinstance(value, str | int | float | bytes | bool | dict | list | tuple | None)
        and " at 0x" not in repr(value)
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


@cache
def _code_digest() -> str:
    """Of the code that reads and encodes rows."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in _CODE:
        place = root / name
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()
