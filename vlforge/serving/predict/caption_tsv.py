r"""Caption TSV to be captioned: a line in, a row out, whatever the line holds.

`id \t base64 [\t …]`, or `base64 \t caption` without an id. Unlike the dataset format of
the same shape, which passes over blank lines and refuses broken ones, every line counts.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vlforge.data.headers import begins_as_picture
from vlforge.data.json_arrays import READ_FAULTS
from vlforge.data.json_lines import open_data
from vlforge.data.json_turns import from_base64
from vlforge.serving.predict.row import Row
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, Sample, Turn

LONGEST = 256 << 20
"""Bytes of a line; what stands behind them is not read."""
_PIECE = 1 << 20
_HEAD = 1 << 20
_LOOKED_AT = 64
_LONGEST_ID = 1000
_BOM = b"\xef\xbb\xbf"
_NAMED = re.compile(rb"data:[^,]{0,100},")
_FOREIGN = re.compile(rb"[^A-Za-z0-9+/]")
_FROM_URLS = bytes.maketrans(b"-_", b"+/")


def is_caption_tsv(path: Path) -> bool:
    """Whether one of the first lines has a picture in its first or second column."""
    cells = [cell for line in _first_lines(path) if len(line) > 1 for cell in line[:2]]
    return any(map(begins_as_base64, cells))


def may_be_caption_tsv(path: Path) -> bool:
    """Whether the name says so and all first lines have columns: each picture may be damaged."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    lines = [line for line in _first_lines(path) if line != [b""]]
    is_named = name.endswith((".tsv", ".txt"))
    return is_named and bool(lines) and all(len(line) in (2, 3) for line in lines)


def _first_lines(path: Path) -> list[list[bytes]]:
    """The columns of the first lines; none of what is no file."""
    if not path.is_file():
        return []
    with open_data(path) as file:
        try:
            head = file.read(_HEAD)
        except READ_FAULTS:
            return []
    return [line.split(b"\t", 3) for line in head.removeprefix(_BOM).split(b"\n")[:_LOOKED_AT]]


def caption_rows(path: Path, prompt: str) -> Iterator[Row]:
    """A row for each line.

    Raises:
        DataError: the file breaks off while it is read; says where.
    """
    turns = (Turn("user", f"{LLAVA_IMAGE_TOKEN}\n{prompt}"),)
    number = -1
    with open_data(path) as file:
        try:
            for number, (line, is_whole) in enumerate(_lines(file)):
                yield _row(number, line, is_whole, turns)
        except READ_FAULTS as error:
            raise DataError(f"{path} cannot be read behind line {number + 1}: {error}") from None


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Lines without their ends, and whether all of a line was read."""
    is_first = True
    while found := _next_line(file):
        line, is_whole = found
        if is_first:
            line, is_first = line.removeprefix(_BOM), False
        yield line.removesuffix(b"\n").removesuffix(b"\r"), is_whole


def _next_line(file: BinaryIO) -> tuple[bytes, bool] | None:
    """A line, or the beginning of one that is too long; None at the end."""
    pieces: list[bytes] = []
    size = 0
    while piece := file.readline(_PIECE):
        size += len(piece)
        if size <= LONGEST:
            pieces.append(piece)
        else:
            del pieces[1:]
        if piece.endswith(b"\n"):
            break
    return (b"".join(pieces), size <= LONGEST) if size else None


def _row(number: int, line: bytes, is_whole: bool, turns: tuple[Turn, ...]) -> Row:
    digest = int.from_bytes(hashlib.blake2b(line, digest_size=8).digest())
    cells = line.split(b"\t")
    if len(cells) == 2 and begins_as_base64(cells[0]) and not begins_as_base64(cells[1]):
        cells = [str(number).encode(), cells[0]]
    is_without_id = len(cells) == 1 and begins_as_base64(cells[0])
    # A grader compares ids: bytes that are no UTF-8 come out as they went in.
    name = cells[0][:_LONGEST_ID].decode("utf-8", "surrogateescape")
    name = str(number) if is_without_id else name
    fault = _fault(line, cells, is_whole)
    if fault:
        return Row(number, digest, name, None, *fault)
    content, is_damaged = from_any_base64(cells[1])
    if not content:
        told = cells[1][:40].decode("utf-8", "replace")
        return Row(number, digest, name, None, "picture cannot be read", f"no base64: {told}")
    return Row(number, digest, name, Sample(name, (content,), turns), is_damaged=is_damaged)


def _fault(line: bytes, cells: list[bytes], is_whole: bool) -> tuple[str, str] | None:
    if not is_whole:
        return "line is too long", f"longer than {LONGEST >> 20} MiB"
    if not line.strip():
        return "line is blank", "no id and no picture"
    if len(cells) < 2:
        return "line has no tab", "id and base64, divided by a tab, are wanted"
    return None if cells[1].strip() else ("line has no picture", "its second column is empty")


def from_any_base64(text: bytes) -> tuple[bytes, bool]:
    """What base64 of any kind stands for, as far as it goes; and whether it was damaged.

    Kinds are with and without padding, as in addresses, and behind `data:…,`.
    """
    text = text.strip()
    named = _NAMED.match(text)
    text = text[named.end() :] if named else text
    try:
        return from_base64(text), False
    except ValueError:
        pass
    text = text.translate(_FROM_URLS).rstrip(b"=")
    clean = _FOREIGN.sub(b"", text)
    is_damaged = len(clean) != len(text) or len(clean) % 4 == 1
    clean = clean[: len(clean) - (len(clean) % 4 == 1)]
    return binascii.a2b_base64(clean + b"=" * (-len(clean) % 4)), is_damaged


def begins_as_base64(cell: bytes) -> bool:
    """Whether base64 begins as a picture does."""
    named = _NAMED.match(cell)
    start = cell[named.end() if named else 0 :][:64].strip()
    try:
        return begins_as_picture(binascii.a2b_base64(start[: len(start) & ~3]))
    except ValueError:
        return False
