"""JSON that is too large to be read whole: the items of an array, or of an object's arrays.

An item is found by its brackets and quotes, not judged: one that is no JSON
costs itself only when it is decoded. Where all items begin with the same key,
a block of them is cut, and decoded, at once.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO

import msgspec

from vlforge.types import DataError

READ_FAULTS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
"""What reading a file that was opened may end in."""
MAX_ITEM = 256 << 20
"""Longest item, in bytes."""
_BLOCK = 1 << 16
# What is made of so many bytes stays in the processor's cache until it is used: twice as fast
# as blocks of a megabyte.
_MAX_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_blank = re.compile(rb"[ \t\n\r]*").match
_scalar = re.compile(rb'[^\s,\[\]{}":]+').match
_is_scalar = re.compile(rb"-?\d[\d.eE+-]*|true|false|null|NaN|-?Infinity").fullmatch
_marks = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{}]', re.S).finditer
_first_key = re.compile(rb'\{[ \t\n\r]*"(?:[^"\\]|\\.)*"').match
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
NOT_JSON: tuple[type[Exception], ...] = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding of bytes that are no JSON may end in."""
Several = Callable[[bytes], list[Any]]
One = Callable[[bytes], Any]


class Broken(DataError):
    """JSON that breaks off or goes on where it should not; says after how many items."""


STOPS: tuple[type[Exception], ...] = (Broken, *READ_FAULTS)
"""What reading a file of JSON may end in before its end."""


def array_items(file: BinaryIO) -> Iterator[bytes]:
    """The items of a file that is one JSON array, each as it stands there.

    Raises:
        Broken: the file cannot be read on, is no array, or does not end with it.
    """
    text = _Text(file)
    if not text.take(b"["):
        raise Broken("not JSON: no '[' at its start")
    for block in text.blocks(_raw, _same):
        yield from block
    _check_end(text)


def array_blocks(file: BinaryIO, several: Several, one: One) -> Iterator[list[Any]]:
    """The values of a file that is one JSON array, several at a time.

    Args:
        file: read from its place on.
        several: decodes the text of an array; one of `NOT_JSON` where it is none.
        one: decodes an item that stands alone, or says what is wrong with it.

    Raises:
        Broken: the file cannot be read on, is no array, or does not end with it.
    """
    text = _Text(file)
    if not text.take(b"["):
        raise Broken("not JSON: no '[' at its start")
    yield from text.blocks(several, one)
    _check_end(text)


def _check_end(text: _Text) -> None:
    if text.next():
        raise Broken(f"not JSON: text behind the array's end, after item {text.count}")


def object_members(file: BinaryIO, arrays: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The members of a file that is one JSON object, in order; an array of `arrays` by its items.

    Raises:
        Broken: the file cannot be read on, is no object, or is cut.
    """
    for key, block in _members(_Text(file), dict.fromkeys(arrays, _raw), _same):
        for item in block:
            yield key, item


def member_blocks(
    file: BinaryIO, arrays: Mapping[str, Several], one: One
) -> Iterator[tuple[str, list[Any]]]:
    """As `object_members`, but values as in `array_blocks`, of `arrays` several at a time."""
    yield from _members(_Text(file), arrays, one)


def _members(
    text: _Text, arrays: Mapping[str, Several], one: One
) -> Iterator[tuple[str, list[Any]]]:
    if not text.take(b"{"):
        raise Broken("not JSON: no '{' at its start")
    while not text.take(b"}"):
        key = _string(text.value())
        if not text.take(b":"):
            raise Broken(f"not JSON: no value for {key!r}")
        if key in arrays and text.take(b"["):
            for block in text.blocks(arrays[key], one):
                yield key, block
        else:
            yield key, [one(text.value())]
        if not text.take(b",") and text.next() != b"}":
            raise Broken(f"not JSON: neither ',' nor '}}' after {key!r}")


def _raw(data: bytes) -> list[bytes]:
    return [bytes(item) for item in _split(data)]


def _same(item: bytes) -> bytes:
    return item


def _string(data: bytes) -> str:
    try:
        found: str = msgspec.json.decode(data, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, msgspec.ValidationError):
        raise Broken("not JSON: a key is no string") from None
    return found


class _Text:
    """A JSON file, held only from the place that is being read."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._buffer, self._at, self._ended = b"", 0, False
        self._border = b""
        """How an item ends and the next one begins, up to its first key."""
        self._dropped = 0
        self._slow_until = 0
        """Places in the file: where the buffer begins, and how far a block is known to be bad."""
        self.count = 0
        self._more()
        self._at = len(_BOM) if self._buffer.startswith(_BOM) else 0

    def next(self) -> bytes:
        """The next byte that is no white space; nothing at the end."""
        while True:
            found = _blank(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._more()

    def take(self, mark: bytes) -> bool:
        """Pass `mark` if it is next; whether it was."""
        is_next = self.next() == mark
        self._at += is_next
        return is_next

    def blocks(self, several: Several, one: One) -> Iterator[list[Any]]:
        """The items of the array whose bracket was passed, and its end."""
        self.count = 0
        self._border = b""
        if self.take(b"]"):
            return
        while True:
            block = self._several(several) or [one(self.value())]
            self.count += len(block)
            yield block
            end = self._dropped + self._at
            if self.take(b"]"):
                return
            if not self.take(b","):
                raise self._broken("neither ',' nor ']'" if self.next() else "it breaks off")
            self._learn(end)

    def value(self) -> bytes:
        """The next value."""
        if not self.next():
            raise self._broken("it breaks off")
        while (end := self._end()) is None:
            if self._ended:
                raise self._broken("it breaks off")
            if len(self._buffer) - self._at > MAX_ITEM:
                raise self._broken(f"an item is longer than {MAX_ITEM >> 20} MiB")
            self._more()
        if end == self._at:
            raise self._broken("no value")
        found = self._buffer[self._at : end]
        self._at = end
        return found

    def _several(self, take: Several) -> list[Any]:
        """The items up to the last border in sight where all of them are JSON, else none."""
        border = self._border
        if not border or self._dropped + self._at < self._slow_until:
            return []
        while (cut := self._buffer.rfind(border, self._at)) <= self._at:
            if self._ended or len(self._buffer) - self._at > _MAX_BLOCK:
                return []
            self._more()
        try:
            found = take(b"[" + self._buffer[self._at : cut + 1] + b"]")
        except NOT_JSON:
            self._slow_until = self._dropped + cut
            return []
        self._at = cut + 1
        return found

    def _learn(self, end: int) -> None:
        """Note the border between the item that ended at `end` of the file and the next."""
        if self._border or self.next() != b"{":
            return
        last = end - 1 - self._dropped
        key = _first_key(self._buffer, self._at)
        if key and last >= 0 and self._buffer[last : last + 1] == b"}":
            self._border = self._buffer[last : key.end()]

    def _end(self) -> int | None:
        """Where the value at the place ends; None if that is not in the buffer."""
        buffer, at = self._buffer, self._at
        if buffer[at] not in b'"[{':
            scalar = _scalar(buffer, at)
            if scalar and scalar.end() == len(buffer):
                return None
            return scalar.end() if scalar and _is_scalar(scalar.group()) else at
        depth = 0
        for found in _marks(buffer, at):
            start, end = found.span()
            mark = buffer[start]
            if mark == 0x22:
                if end - start == 1:
                    return None
                if not depth:
                    return end
                continue
            depth += 1 if mark in b"[{" else -1
            if not depth:
                return end
        return None

    def _broken(self, why: str) -> Broken:
        return Broken(f"not JSON: broken after item {self.count}: {why}")

    def _more(self) -> None:
        """Drop what was read, and read on: as much again as is left, so that long items end."""
        left = self._buffer[self._at :]
        try:
            data = self._file.read(max(_BLOCK, len(left)))
        except READ_FAULTS as error:
            raise Broken(f"cannot be read beyond item {self.count}: {error}") from None
        self._ended = not data
        self._dropped += self._at
        self._buffer, self._at = left + data, 0
