"""The values of a JSON file, a block at a time: one call decodes many rows.

A block is small enough that its values are still in the processor's cache when
they are used. Where one of its rows is no JSON, it is decoded row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import msgspec

from vlforge.data.json_arrays import NOT_JSON, STOPS, array_blocks, member_blocks
from vlforge.data.json_lines import decode, is_array, open_data
from vlforge.types import DataError

_BLOCK = 1 << 16
_BOM = b"\xef\xbb\xbf"


class Decodes(Protocol):
    """Decodes a block of rows at once; `msgspec.DecodeError` where one is no JSON."""

    def array(self, text: bytes) -> list[Any]:
        """The rows of an array."""
        ...

    def lines(self, text: bytes) -> list[Any]:
        """The rows of lines."""
        ...


class AnyRows:
    """Rows as any JSON."""

    array = staticmethod(msgspec.json.Decoder(list[Any]).decode)
    lines = staticmethod(msgspec.json.Decoder().decode_lines)


class Block(NamedTuple):
    """Some values of a file; what is no JSON, or where the file breaks off, is a `DataError`."""

    line: int
    """The first one's line, or its place in the array, from 1; the others follow."""
    values: list[Any]


def read_blocks(path: Path, rows: Decodes = AnyRows) -> Iterator[Block]:
    """The values of a file of JSON lines, or of one JSON array, streamed; blank lines are none.

    Args:
        path: the file.
        rows: decodes the blocks that can be decoded at once; the others come as any JSON.

    Raises:
        DataError: the file cannot be read at all.
    """
    as_array = is_array(path)
    with open_data(path) as file:
        line = 1
        try:
            for block in _of_array(file, rows) if as_array else _of_lines(file, rows):
                line = block.line + len(block.values)
                yield block
        except STOPS as error:
            yield Block(line, [DataError(str(error))])


def read_members(path: Path, array: str, rows: Decodes = AnyRows) -> Iterator[Block]:
    """The items of the array `array` of a file that is one JSON object, streamed.

    Raises:
        DataError: the file cannot be read at all.
    """
    line = 1
    with open_data(path) as file:
        members = member_blocks(file, {array: rows.array}, value_of)
        try:
            for values in (values for key, values in members if key == array):
                yield Block(line, values)
                line += len(values)
        except STOPS as error:
            yield Block(line, [DataError(str(error))])


def value_of(item: bytes) -> Any:
    """The value of one item, or what is wrong with it."""
    try:
        return decode(item)
    except DataError as error:
        return error


def _of_array(file: BinaryIO, rows: Decodes) -> Iterator[Block]:
    line = 1
    for values in array_blocks(file, rows.array, value_of):
        yield Block(line, values)
        line += len(values)


def _of_lines(file: BinaryIO, rows: Decodes) -> Iterator[Block]:
    line = 1
    pieces: list[bytes] = []
    # What a packed file that breaks off still holds comes in short reads.
    read = getattr(file, "read1", file.read)
    while data := read(_BLOCK):
        cut = data.rfind(b"\n") + 1
        if not cut:
            pieces.append(data)
            continue
        text = b"".join([*pieces, data[:cut]])
        pieces = [data[cut:]]
        yield from _lines(text, line, rows)
        line += text.count(b"\n")
    if last := b"".join(pieces):
        yield from _lines(last + b"\n", line, rows)


def _lines(text: bytes, line: int, rows: Decodes) -> Iterator[Block]:
    """The values of whole lines of which the first is line `line`."""
    if line == 1:
        text = text.removeprefix(_BOM)
    try:
        values = rows.lines(text)
    except NOT_JSON:
        values = []
    if values and len(values) == text.count(b"\n"):
        yield Block(line, values)
        return
    lines = text.split(b"\n")[:-1]
    if not any(not one or one.isspace() for one in lines):
        yield Block(line, [value_of(one) for one in lines])
        return
    for at, one in enumerate(lines, line):
        if one and not one.isspace():
            yield Block(at, [value_of(one)])
