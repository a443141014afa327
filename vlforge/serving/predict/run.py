r"""`predict`: a model's answer to every row of a file, kept as it comes.

An ad-caption TSV becomes `id \t caption`, line for line; other datasets and folders of
pictures become rows of JSON. What was answered when a command was stopped is kept, and the
same command leaves the bytes that it would have left undisturbed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlforge.serving.predict.answering import (
    OF_COMMAND,
    Asking,
    Hope,
    Opener,
    alone,
    plan_batches,
)
from vlforge.serving.predict.book import Book, Summary, To, write_output
from vlforge.serving.predict.row import Answer, Row
from vlforge.serving.predict.rows import Kind, Source, count_rows, open_source
from vlforge.types import DataError, ProgressFn, no_progress

_TSV_NAMES = (".tsv", ".txt", ".tsv.gz", ".txt.gz")
_JSON_NAMES = (".jsonl", ".json", ".jsonl.gz")


@dataclass(frozen=True)
class Plan:
    """What is answered, by whom, and where the answers go.

    Args:
        to: `tsv` or `jsonl`; `auto`: as the output's name ends, else as the input is.
        fallback: stands where there is no answer; None: 一张图片 in TSV, nothing in JSON.
        report: gets a line for each row that fell back.
        processes: that share the rows; `auto`: one per GPU.
        fresh: begin anew, whatever was answered before.
        overwrite: an output that is there gives way when the new one is whole.
    """

    source: Source
    output: Path
    asking: Asking
    to: str = "auto"
    fallback: str | None = None
    report: Path | None = None
    processes: int | str = "auto"
    device: str = "auto"
    fresh: bool = False
    overwrite: bool = False


@dataclass
class Done:
    """What a run came to; `kept` rows were answered before it began."""

    summary: Summary
    kept: int
    seconds: float
    notes: tuple[str, ...] = ()
    usage: list[str] = field(default_factory=list)


def predict(plan: Plan, progress: ProgressFn = no_progress) -> Done:
    """Answer every row and write the output.

    Raises:
        DataError: an input that cannot be read, an output that is there.
        ModelError: no model there that answers, or one that answers no row.
    """
    begin = time.monotonic()
    _check_places(plan)
    kind, rows = open_source(plan.source)
    to = _form(plan, kind)
    replies = plan.output.with_name(f".{plan.output.name}.replies.jsonl")
    book = Book(plan.output, _settings(plan), fresh=plan.fresh, asked_again=OF_COMMAND)
    is_done = False
    try:
        if plan.fresh:
            replies.unlink(missing_ok=True)
        work = _Work(plan, book, replies)
        work.answer(rows, _Count(plan.source, kind, rows), progress)
        summary = write_output(book, work.rows, to, plan.fallback, plan.report)
        is_done = True
    finally:
        book.close(is_done=is_done)
    replies.unlink(missing_ok=True)
    return Done(summary, work.kept, time.monotonic() - begin, work.notes, work.usage)


class _Work:
    """Answers the rows that the book lacks."""

    def __init__(self, plan: Plan, book: Book, replies: Path):
        asking = plan.asking
        if asking.endpoint is not None:
            asking = replace(asking, replies=str(replies))
        self.plan, self.book, self.asking = plan, book, asking
        self.opener = Opener(asking, plan.device)
        self.rows = self.kept = 0
        self.notes: tuple[str, ...] = ()
        self.usage: list[str] = []

    def answer(
        self, rows: Callable[[], Iterator[Row]], total: _Count, progress: ProgressFn
    ) -> None:
        """Every row has an answer in the book when this returns."""
        before = self.book.kept
        hope, done, fell = Hope(), before, 0
        progress(done, total.found, "")
        orders = self._orders(rows())
        with closing(self._outcomes(orders)) as outcomes:
            for answers in outcomes:
                self.book.add(answers)
                if not before:
                    hope.see(answers)
                done += len(answers)
                fell += sum(bool(one.reason) for one in answers)
                progress(done, total.found, f"{fell:,} fell back" if fell else "")
        if not before:
            hope.see((), is_last=True)
        if not self.rows:
            raise DataError(f"{self.plan.source.path} holds no row: there is nothing to answer")

    def _orders(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        """Batches without what is answered already; `rows` and `kept` are counted meanwhile."""
        for batch in plan_batches(rows, self.asking.rows_at_once):
            self.rows += len(batch)
            left = [row for row in batch if not self.book.has(row.number, row.digest)]
            self.kept += len(batch) - len(left)
            if left:
                yield left

    def _outcomes(self, orders: Iterator[list[Row]]) -> Generator[list[Answer], None, None]:
        """What became of the batches; no model is opened where all are answered."""
        first = next(orders, None)
        if first is None:
            return
        orders = _chain(first, orders)
        count = self._processes()
        if count > 1:
            yield from self._by_crew(orders, count)
            return
        worker = self.opener(0, 0)
        self.notes = worker.notes
        yield from alone(worker, orders)
        self.usage = worker.spent()

    def _by_crew(self, orders: Iterable[list[Row]], count: int) -> Iterator[list[Answer]]:
        from vlforge.inference.crew import Crew

        with closing(Crew(self.opener, count)) as crew:
            for answers in crew.work(orders):
                self.notes = crew.notes
                yield answers

    def _processes(self) -> int:
        from vlforge.inference.crew import count_for

        asking = self.asking
        if asking.endpoint is not None:
            return 1
        is_one = asking.loading.device_map != "none"
        return count_for(self.plan.processes, self.plan.device, is_one=is_one)


class _Count:
    """How many rows there are, found in a thread while the first are answered."""

    def __init__(self, source: Source, kind: Kind, rows: Callable[[], Iterator[Row]]):
        self.found: int | None = None

        def count() -> None:
            try:
                self.found = count_rows(source, kind, rows)
            except (OSError, DataError):  # whoever reads the rows meets it again
                return

        threading.Thread(target=count, daemon=True, name="count").start()


def _chain(first: list[Row], others: Iterator[list[Row]]) -> Iterator[list[Row]]:
    yield first
    yield from others


def _check_places(plan: Plan) -> None:
    output, source = plan.output, plan.source.path
    if output.is_dir():
        raise DataError(f"{output} is a folder; name the file that the answers go to")
    if source.exists() and output.exists() and os.path.samefile(source, output):
        raise DataError(f"{output} is the input; name another file for the answers")
    if output.exists() and not plan.overwrite:
        raise DataError(f"{output} exists; remove it, name another, or give --overwrite")
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output.parent}: no such folder for the answers; make it first")


def _form(plan: Plan, kind: Kind) -> To:
    """Whether lines of TSV or of JSON are written.

    Raises:
        DataError: a form that there is not.
    """
    if plan.to in ("tsv", "jsonl"):
        return "tsv" if plan.to == "tsv" else "jsonl"
    if plan.to != "auto":
        raise DataError(f"--to {plan.to}: answers are written as tsv or jsonl")
    name = plan.output.name.lower()
    if name.endswith(_TSV_NAMES):
        return "tsv"
    if name.endswith(_JSON_NAMES):
        return "jsonl"
    return "tsv" if kind == "tsv" else "jsonl"


def _settings(plan: Plan) -> dict[str, Any]:
    """What answers depend on, by the names that a user gives it."""
    asking, drawing = plan.asking, plan.asking.drawing
    server = asking.endpoint
    return {
        "model": [server.url, server.model] if server else _identity(Path(asking.model)),
        "parts": str(asking.parts),
        "template": asking.template,
        "precision": [asking.loading.precision, asking.loading.quantise],
        "prompt": plan.source.prompt,
        "format": plan.source.format,
        "images": plan.source.images,
        "seed": asking.seed,
        "damaged": asking.keeps_damaged,
        "max-new-tokens": drawing.max_new_tokens,
        "temperature": drawing.temperature,
        "top-p": drawing.top_p,
        "beams": drawing.beams,
    }


def _identity(folder: Path) -> list[Any]:
    """Names a model folder: its place, and its files' sizes and times."""
    inside = folder.iterdir() if folder.is_dir() else [folder]
    files: Sequence[Path] = sorted(path for path in inside if path.is_file())
    told = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return [str(folder.resolve()), *map(list, told)]


def find_model(folder: Path) -> Path:
    """The model folder: `folder`, or the only folder in it.

    Raises:
        DataError: nothing is there.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such model folder; give a training stage of a run")
    if folder.is_dir() and not any(path.is_file() for path in folder.iterdir()):
        inner = [path for path in folder.iterdir() if path.is_dir()]
        if len(inner) == 1:
            return inner[0]
    return folder
