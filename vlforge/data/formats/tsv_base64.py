"""Caption TSV: `id`, the picture in base64, and the caption, divided by tabs.

PaddleMIX and Baidu's caption sets are written so, without a caption where the
caption is asked for.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import msgspec

from vlforge.data.headers import begins_as_picture
from vlforge.data.json_arrays import NOT_JSON, READ_FAULTS
from vlforge.data.json_lines import open_data, whole_file
from vlforge.data.json_rows import fault_of
from vlforge.data.json_turns import encoded, from_base64
from vlforge.data.records import MARK, Fault, Holds, Picture, Record, Unfit, caption_of
from vlforge.types import DataError

_BREAK = re.compile(r"\r\n|[\r\n\t]")
_divides = _BREAK.search
_decode = msgspec.json.Decoder(list[tuple[str, bytes, str]]).decode
_LONGEST = 256 << 20
_HEAD = 1 << 20
_BLOCK = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TsvBase64Format:
    r"""Caption TSV: `id \t base64 [\t caption]`, a row a line, UTF-8.

    Of two columns the one that begins as a picture is the picture: `id` and
    picture, or picture and caption. Read ids are strings; a record without one
    is written with its number. Nothing is quoted: a caption with a tab or a
    line break does not fit, unless `line_breaks` writes a space there.

    Args:
        line_breaks: `refuse` such captions, or write a `space`.
        loses_question: write the answer of a single round and lose its question.
    """

    line_breaks: Literal["refuse", "space"] = "refuse"
    loses_question: bool = False

    name: ClassVar[str] = "tsv_base64"
    holds: ClassVar[Holds] = Holds(document=True, embedded=True)

    def recognises(self, path: Path) -> bool:
        """Whether one of the first lines holds a picture."""
        if not path.is_file():
            return False
        try:
            with open_data(path) as file:
                lines = file.read(_HEAD).removeprefix(_BOM).split(b"\n")
        except DataError:
            return False
        except READ_FAULTS:
            return False
        return any(
            len(cells) in (2, 3) and any(map(_begins, cells[:2]))
            for line in lines[:64]
            for cells in [line.split(b"\t", 3)]
        )

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The rows, streamed; one with broken base64 is a `Fault`."""
        number = 0
        with open_data(path) as file:
            try:
                for first, text in _blocks(file):
                    found = _at_once(text, first) or _one_by_one(text, first)
                    yield from found
                    number = found[-1].line if found else number
            except READ_FAULTS as error:
                yield Fault(number + 1, "the file cannot be read on", str(error))

    def writer(self, path: Path) -> TsvWriter:
        """Writes a new file."""
        return TsvWriter(path, self)


class TsvWriter:
    """Writes records as lines."""

    def __init__(self, path: Path, format_: TsvBase64Format):
        self._whole, self._format = whole_file(path), format_
        self.count = 0

    def __enter__(self) -> TsvWriter:
        self._out = self._whole.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._whole.__exit__(kind, error, trace)

    def write(self, record: Record) -> None:
        """Add one line.

        Raises:
            Unfit: no caption, or one that holds what divides columns and lines.
        """
        if len(record.pictures) != 1:
            raise Unfit(f"{len(record.pictures)} pictures where a line holds one")
        number = str(self.count if record.id is None else record.id)
        cells = [self._cell(number), encoded(record.pictures[0].read()).encode()]
        if record.turns or record.chunks:
            said = caption_of(record, loses_question=self._format.loses_question)
            cells.append(self._cell(said))
        self._out.write(b"\t".join(cells) + b"\n")
        self.count += 1

    def _cell(self, text: str) -> bytes:
        if _divides(text):
            if self._format.line_breaks == "refuse":
                raise Unfit(
                    "a caption holds a tab or a line break: --set line_breaks=space writes a space"
                )
            text = _BREAK.sub(" ", text)
        return text.encode("utf-8", errors="replace")


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Whole lines, some at a time, without the last one's end; None for one that is too long.

    With the number of the first of them.
    """
    number, size = 1, 0
    pieces: list[bytes] = []
    # What a packed file that breaks off still holds comes in short reads.
    read = getattr(file, "read1", file.read)
    while data := read(_BLOCK):
        cut = data.rfind(b"\n")
        if cut < 0:
            size += len(data)
            if size < _LONGEST:
                pieces.append(data)
            continue
        if size >= _LONGEST:
            yield number, None
            number += 1
            pieces = [data[data.index(b"\n") + 1 : cut + 1]]
        else:
            pieces.append(data[: cut + 1])
        text = b"".join(pieces)
        pieces, size = [data[cut + 1 :]], len(data) - cut - 1
        if text:
            yield number, text[:-1].removeprefix(_BOM) if number == 1 else text[:-1]
            number += text.count(b"\n")
    if size >= _LONGEST:
        yield number, None
    elif text := b"".join(pieces):
        yield number, text.removeprefix(_BOM) if number == 1 else text


def _lines(text: bytes | None, number: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a block with their numbers, blank ones passed over; nothing of too long ones."""
    if text is None:
        yield number, b""
        return
    for at, line in enumerate(text.split(b"\n"), number):
        if line and not line.isspace():
            yield at, line


def _at_once(text: bytes | None, number: int) -> list[Record | Fault]:
    """The records of lines that all are three whole columns, decoded as JSON; else none.

    Base64 is a string of JSON to msgspec, so that a block of rows is one call,
    and a picture's text is never copied on its own.
    """
    if not text:
        return []
    if b"\\" in text:
        text = text.replace(b"\\", b"\\\\")
    if b'"' in text:
        text = text.replace(b'"', b'\\"')
    if b"\r" in text:
        text = text.removesuffix(b"\r").replace(b"\r\n", b"\n")
    rows = text.replace(b"\t", b'","').replace(b"\n", b'"],["')
    try:
        names, contents, captions = zip(*_decode(b'[["' + rows + b'"]]'), strict=True)
    except NOT_JSON:
        return []
    if not all(contents) or MARK in "".join(captions):
        return []
    pictures = zip(map(Picture, repeat(""), repeat(""), contents))
    chunks = zip([f"{MARK}\n{caption}" for caption in captions])
    extras: list[dict[str, Any]] = [{} for _ in names]
    return list(map(Record, names, pictures, repeat(()), chunks, extras, count(number)))


def _one_by_one(text: bytes | None, number: int) -> list[Record | Fault]:
    """What `_at_once` gives, and what is wrong with the other lines."""
    return [_found(line, at) for at, line in _lines(text, number)]


def _found(line: bytes, number: int) -> Record | Fault:
    try:
        return _record(line, number)
    except DataError as error:
        return fault_of(number, error)


def _record(line: bytes, number: int) -> Record:
    if not line:
        raise DataError(f"a line is longer than {_LONGEST >> 20} MiB")
    cells = line.split(b"\t")
    cells[-1] = cells[-1].rstrip(b"\r")
    if len(cells) not in (2, 3):
        raise DataError(f"a line has not 2 or 3 columns: {len(cells)}")
    is_without_id = len(cells) == 2 and _begins(cells[0]) and not _begins(cells[1])
    if is_without_id:
        cells = [b"", *cells]
    try:
        words = [cells[0].decode(), *(cell.decode() for cell in cells[2:])]
    except UnicodeDecodeError:
        raise DataError("a line is not UTF-8") from None
    try:
        content = from_base64(cells[1].strip())
    except ValueError as error:
        raise DataError(f"a picture is not base64: {words[0]}: {error}") from None
    if not content:
        raise DataError(f"a picture is empty: {words[0]}")
    chunks = tuple([one if MARK in one else f"{MARK}\n{one}" for one in words[1:]])
    name = None if is_without_id else words[0]
    return Record(name, (Picture(content=content),), (), chunks, {}, number)


def _begins(cell: bytes) -> bool:
    """Whether base64 begins as a picture does."""
    start = cell[:64]
    try:
        return begins_as_picture(binascii.a2b_base64(start[: len(start) & ~3]))
    except ValueError:
        return False
