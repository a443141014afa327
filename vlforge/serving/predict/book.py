"""The answers so far, in a hidden file beside the output, and the output that they become.

A line is appended for each answer as it comes, whatever its place; memory holds eight bytes
of place and eight of digest a row. What a kill cut off is cut away, and the same command
goes on. The output appears whole, under its name, when every row has its line.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from vlforge.data.json_lines import decode, encode, whole_file
from vlforge.serving.predict.row import Answer
from vlforge.types import DataError

To = Literal["tsv", "jsonl"]
EMPTY = "answer is empty"
_SHOWN, _OF_A_REASON = 6, 2
_BREAKS = re.compile("\r\n|[\r\n\t\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_NONE = -1


class Book:
    """Keeps answers by the number of their row.

    Args:
        output: where the answers will be.
        settings: what the answers depend on; those of another command do not count.
        asked_again: reasons of rows that another try may answer.

    Raises:
        DataError: answers of other settings are there, or another command writes them.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        *,
        fresh: bool = False,
        asked_again: Collection[str] = (),
    ):
        self.output = output
        self.path = output.with_name(f".{output.name}.answers")
        self._places, self._digests = array("q"), array("Q")
        self.kept = 0
        self._end = 0
        try:
            self._file: BinaryIO = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise DataError(f"{output} cannot be written: {error.strerror or error}") from None
        try:
            self._hold()
            if fresh:
                os.ftruncate(self._file.fileno(), 0)
            self._begin(dict(settings), frozenset(asked_again))
        except BaseException:
            self._file.close()
            raise

    def has(self, number: int, digest: int) -> bool:
        """Whether the row has an answer, and is the row that was answered."""
        return (
            number < len(self._places)
            and self._places[number] != _NONE
            and self._digests[number] == digest
        )

    def add(self, answers: Iterable[Answer]) -> None:
        """Keep answers; they are in the file when this returns, all or none of them.

        Raises:
            OSError: the disk refuses them.
        """
        lines = [(one, encode(msgspec.structs.astuple(one)) + b"\n") for one in answers]
        data = b"".join(line for _, line in lines)
        while data:  # all at once but on a disk that is nearly full
            data = data[self._file.write(data) :]
        for answer, line in lines:
            self._note(answer.number, answer.digest, self._end)
            self._end += len(line)

    def answers(self, count: int) -> Iterator[Answer]:
        """The answers of the rows, in their order."""
        with open(self.path, "rb") as file:
            for number in range(count):
                file.seek(self._places[number])
                yield _answer(file.readline())

    def close(self, *, is_done: bool) -> None:
        """Let go; with `is_done` the answers are in the output."""
        if is_done or not self._places:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{self.output}: another command writes it; wait for its end") from None
        except OSError:  # Some network file systems know no locks.
            pass
        try:
            is_there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            is_there = False
        if not is_there:  # one that ended between our opening and our locking removed it
            raise DataError(f"{self.output}: another command has just ended with it; begin again")

    def _begin(self, settings: dict[str, Any], asked_again: frozenset[str]) -> None:
        """Take up the answers that are there, if they are of these settings."""
        with open(self.path, "rb") as file:
            head = file.readline()
            self._end = len(head)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                answer = _answer(line)
                if answer.reason not in asked_again:
                    self._note(answer.number, answer.digest, self._end)
                self._end += len(line)
        self.kept = len(self._places) - self._places.count(_NONE)
        if self.kept:
            self._check(decode(head), json.loads(json.dumps(settings)))
            os.ftruncate(self._file.fileno(), self._end)
            return
        os.ftruncate(self._file.fileno(), 0)
        head = json.dumps(settings, sort_keys=True).encode() + b"\n"
        self._file.write(head)
        self._end = len(head)

    def _check(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        changed = [name for name in now if now[name] != before.get(name)]
        if changed:
            raise DataError(
                f"{self.path} keeps answers of a command with another {' and '.join(changed)}; "
                "give that command again, or --fresh to begin anew"
            )

    def _note(self, number: int, digest: int, place: int) -> None:
        missing = number + 1 - len(self._places)
        if missing > 0:
            self._places.extend([_NONE] * missing)
            self._digests.extend([0] * missing)
        self._places[number], self._digests[number] = place, digest


def _answer(line: bytes) -> Answer:
    return msgspec.convert(decode(line), Answer)


@dataclass
class Summary:
    """What became of the rows; `shown` are the first that fell back for each reason."""

    rows: int = 0
    fell_back: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    shown: list[Answer] = field(default_factory=list)


def write_output(
    book: Book, count: int, to: To, fallback: str | None, report: Path | None = None
) -> Summary:
    """The output, whole or not at all: a line for each row.

    Args:
        fallback: what stands where there is no answer; None: 一张图片 in TSV, nothing in JSON.
        report: gets a line of JSON for each row that fell back or whose picture was damaged.
    """
    words = {"tsv": "一张图片", "jsonl": ""}[to] if fallback is None else fallback
    summary = Summary()
    with whole_file(book.output) as file:
        for answer in book.answers(count):
            if not answer.reason and not answer.text.strip():
                answer = msgspec.structs.replace(answer, reason=EMPTY)
            text = words if answer.reason else answer.text
            file.write(_tsv_line(answer, text) if to == "tsv" else _json_line(answer, text))
            _sum_up(summary, answer)
    if report is not None:
        _write_report(book, count, report)
    return summary


def _tsv_line(answer: Answer, text: str) -> bytes:
    line = "\t".join(_BREAKS.sub(" ", cell) for cell in (str(answer.id), text)) + "\n"
    try:
        return line.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return line.encode("utf-8", "replace")


def _json_line(answer: Answer, text: str) -> bytes:
    row = {"id": answer.id, "answer": text, "confidence": answer.confidence}
    if answer.reason:
        row["fallback"] = ": ".join(filter(None, (answer.reason, answer.detail)))
    if answer.is_damaged:
        row["damaged"] = True
    return encode(row) + b"\n"


def _sum_up(summary: Summary, answer: Answer) -> None:
    summary.rows += 1
    if answer.reason:
        summary.fell_back[answer.reason] += 1
        if summary.fell_back[answer.reason] <= _OF_A_REASON and len(summary.shown) < _SHOWN:
            summary.shown.append(answer)
    elif answer.is_damaged:
        summary.damaged += 1


def _write_report(book: Book, count: int, path: Path) -> None:
    with whole_file(path) as file:
        for one in book.answers(count):
            reason = one.reason or ("" if one.text.strip() else EMPTY)
            if reason or one.is_damaged:
                why = reason or "answered to what is left of its picture"
                row = {"row": one.number + 1, "id": one.id, "reason": why, "detail": one.detail}
                file.write(encode(row) + b"\n")
