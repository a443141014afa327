"""Who answers rows: a model folder or a server, alone or several side by side.

Rows come in batches that depend on the input and the batch size alone, not on what has been
answered before nor on who answers. So neither a kill nor the number of processes changes
which rows a model sees together.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.data.ahead import one_ahead
from vlforge.inference.endpoint.writer import NO_REPLY, UNREADABLE
from vlforge.serving.predict.row import Answer, Row
from vlforge.types import (
    DataError,
    Drawing,
    EndpointSpec,
    Loading,
    ModelError,
    Refusal,
)

if TYPE_CHECKING:
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.inference.load import Loaded

FAILED, MISSING = "model fails on the row", "picture is not there"
OF_COMMAND = frozenset(
    {FAILED, MISSING, NO_REPLY, "model cannot take the request", "conversation too long"}
)
"""Reasons that a model, its template, a server or a folder's name may be to blame for."""
_WINDOW = 16
"""Batches whose rows are put together by length."""
_WINDOW_BYTES = 128 << 20
_STEP = 32
"""Characters by which two questions may differ and still count as equally long."""
_HOPELESS = 3
"""So many batches without a single answer, and the model is to be looked at."""
_A_SERVER_HOLDS = 16
"""Rows of a batch for each request that a server gets at once."""


@dataclass(frozen=True)
class Asking:
    """Who is asked and how; travels to processes.

    Args:
        model: a model folder, or with `endpoint` nothing.
        parts: folders that a foreign layout leaves out.
        seed: row n is drawn with the key `seed` + n.
        keeps_damaged: ask about what a cut-off picture still shows; else it counts as none.
        replies: the file that keeps a server's replies; "": memory.
    """

    model: str = ""
    endpoint: EndpointSpec | None = None
    template: str = "auto"
    parts: Parts | None = None
    loading: Loading = field(default_factory=Loading)
    drawing: Drawing = field(default_factory=Drawing)
    seed: int = 0
    batch: int = 32
    keeps_damaged: bool = True
    replies: str = ""

    @property
    def rows_at_once(self) -> int:
        """Rows of a batch: a server gets enough to be busy all the time."""
        if self.endpoint is None:
            return self.batch
        return max(self.batch, _A_SERVER_HOLDS * self.endpoint.concurrency)


@dataclass(frozen=True)
class Opener:
    """Opens the model of a process."""

    asking: Asking
    device: str = "auto"

    def __call__(self, number: int, threads: int) -> Answering:
        """The worker of the process with this number."""
        from vlforge.inference.crew import device_of

        if self.asking.endpoint is not None:
            return Answering(_server(self.asking, self.asking.endpoint), self.asking)
        return Answering(_local(self.asking, device_of(number, self.device), threads), self.asking)


def _local(asking: Asking, device: str, threads: int) -> Any:
    from vlforge.inference.local import LocalChat
    from vlforge.inference.writers import LocalWriter

    # Opened as chat and eval open it, threads and all.
    chat = LocalChat(
        asking.model, device=device, threads=threads, template=asking.template,
        loading=asking.loading, parts=asking.parts,
    )  # fmt: skip
    return LocalWriter(chat.loaded, asking.batch)


def _server(asking: Asking, spec: EndpointSpec) -> Any:
    from vlforge.inference.endpoint.client import Endpoint
    from vlforge.inference.endpoint.writer import EndpointWriter
    from vlforge.inference.local import PATIENCE

    patience = max(PATIENCE, 3 * spec.concurrency)
    file = Path(asking.replies) if asking.replies else None
    return EndpointWriter(Endpoint(spec, file, patience=patience))


class Answering:
    """Answers batches with a writer; a row that cannot be answered costs itself.

    A picture that is cut off or damaged is decoded as far as it goes.
    """

    def __init__(self, writer: Any, asking: Asking):
        self.writer, self.asking = writer, asking
        self.loaded: Loaded | None = getattr(writer, "loaded", None)
        self.notes: tuple[str, ...] = self.loaded.notes if self.loaded else ()

    def open(self, order: Sequence[Row]) -> list[Row]:
        """The rows with pictures opened for a model of this machine; a server gets files."""
        rows = [self._allowed(row) for row in order]
        if self.loaded is None:
            return rows
        found = self._pictures(rows)
        for at, images in enumerate(found):
            if isinstance(images, Exception):
                rows[at] = self._mended(rows[at], str(images))
                found[at] = self._pictures([rows[at]])[0]
        return [_with(row, images) for row, images in zip(rows, found, strict=True)]

    def work(self, order: Sequence[Row], opened: Sequence[Row]) -> list[Answer]:
        """What became of the rows of a batch, in their order."""
        rows = list(opened)
        said = self._said(rows)
        if self.loaded is None:
            again = [at for at, one in enumerate(said) if _is_unreadable(one, rows[at])]
            for at in again:
                rows[at] = self._mended(rows[at], said[at].detail)
            for at, one in zip(again, self._said([rows[at] for at in again]), strict=True):
                said[at] = one
        knows = self.loaded is not None
        return [_answer(row, one, knows=knows) for row, one in zip(rows, said, strict=True)]

    def spent(self) -> list[str]:
        """What asking a server took, a line."""
        endpoint = getattr(self.writer, "endpoint", None)
        return [] if endpoint is None else [endpoint.told()]

    def _pictures(self, rows: Sequence[Row]) -> list[Any]:
        from vlforge.inference.prefetch import opened

        assert self.loaded is not None
        return opened(self.loaded, [row.sample.images if row.sample else () for row in rows])

    def _allowed(self, row: Row) -> Row:
        if row.sample is None or not row.is_damaged or self.asking.keeps_damaged:
            return row
        return replace(row, sample=None, reason=UNREADABLE, detail="its base64 is damaged")

    def _mended(self, row: Row, why: str) -> Row:
        """The row with what its pictures still show, or with the reason why it has none."""
        assert row.sample is not None
        try:
            images = tuple(map(_as_far_as_it_goes, row.sample.images))
        except (DataError, OSError) as error:
            is_missing = getattr(error, "reason", "") == "missing image"
            reason = MISSING if is_missing else UNREADABLE
            return replace(row, sample=None, reason=reason, detail=str(error))
        if not self.asking.keeps_damaged:
            return replace(row, sample=None, reason=UNREADABLE, detail=why)
        return replace(row, sample=replace(row.sample, images=images), is_damaged=True)

    def _said(self, rows: Sequence[Row]) -> list[Any]:
        """A caption or a refusal for each row; where all fail together, one after the other."""
        asked = [row for row in rows if row.sample is not None]
        samples = [row.sample for row in asked]
        keys = [self.asking.seed + row.number for row in asked]
        try:
            written = self.writer.write(samples, self.asking.drawing, keys) if asked else []
        except (DataError, ModelError) as error:
            if len(asked) == 1:
                written = [Refusal(FAILED, str(error))]
            else:
                written = [self._said([row])[0] for row in asked]
        found = iter(written)
        return [
            Refusal(row.reason, row.detail) if row.sample is None else next(found) for row in rows
        ]


def _with(row: Row, images: Any) -> Row:
    if row.sample is None:
        return row
    if isinstance(images, Exception):
        return replace(row, sample=None, reason=UNREADABLE, detail=str(images))
    return replace(row, sample=replace(row.sample, images=images))


def _is_unreadable(said: Any, row: Row) -> bool:
    return row.sample is not None and isinstance(said, Refusal) and said.reason == UNREADABLE


def _as_far_as_it_goes(image: str | bytes) -> str | bytes:
    """The picture as it is, or a PNG of what can be decoded of it.

    Raises:
        DataError: nothing can.
    """
    from vlforge.data.images import ImageFile, to_rgb

    is_given = isinstance(image, bytes)
    file = ImageFile("<bytes>", image) if is_given else ImageFile(str(image))  # type: ignore
    picture = file.picture(fills=True)
    if not picture.is_truncated:
        return image
    buffer = io.BytesIO()
    to_rgb(picture.upright).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _answer(row: Row, said: Any, *, knows: bool) -> Answer:
    if isinstance(said, Refusal):
        return Answer(row.number, row.digest, row.id, reason=said.reason, detail=said.detail)
    (caption,) = said
    sure = round(caption.confidence, 4) if knows else None
    text = caption.text
    return Answer(row.number, row.digest, row.id, text, sure, is_damaged=row.is_damaged)


def plan_batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Rows that are asked together: near to each other in the input and about equally long."""
    source = iter(rows)
    while window := _window(source, _WINDOW * size):
        window.sort(key=_length)
        for start in range(0, len(window), size):
            yield window[start : start + size]


def _window(source: Iterator[Row], most: int) -> list[Row]:
    window, held = [], 0
    for row in islice(source, most):
        window.append(row)
        images = row.sample.images if row.sample else ()
        held += sum(len(image) for image in images if isinstance(image, bytes))
        if held >= _WINDOW_BYTES:
            break
    return window


def _length(row: Row) -> tuple[int, int]:
    """Larger for longer; the largest first, so that what does not fit in memory shows at once."""
    if row.sample is None:
        return 0, 0
    length = sum(len(turn.text) for turn in row.sample.turns)
    return -len(row.sample.images), -(length // _STEP)


class Hope:
    """Watches whether a model answers at all, where nothing was answered before."""

    def __init__(self, batches: int = _HOPELESS):
        self.left = batches
        self.first = ""
        self.is_answered = False

    def see(self, answers: Sequence[Answer], *, is_last: bool = False) -> None:
        """Take note of what became of a batch.

        Raises:
            ModelError: no answer so far, and what is told of is no fault of the rows alone.
        """
        self.left -= 1
        for one in answers:
            self.is_answered = self.is_answered or not one.reason
            if one.reason in OF_COMMAND and not self.first:
                self.first = f"{one.reason}: {one.detail}"
        if self.first and not self.is_answered and (self.left <= 0 or is_last):
            raise ModelError(f"no row was answered; the first: {self.first}")


def alone(worker: Answering, orders: Iterable[list[Row]]) -> Iterator[list[Answer]]:
    """What became of every batch, by a model in this process.

    While it writes, a thread reads the next rows and opens their pictures.
    """
    for order, opened in one_ahead((order, worker.open(order)) for order in orders):
        yield worker.work(order, opened)
