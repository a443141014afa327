"""Text files in other encodings, written anew as UTF-8 where what they meant is certain."""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vlforge.data.formats.index import detect
from vlforge.data.json_lines import open_data
from vlforge.data.records import Format
from vlforge.types import DataError

TEXT_SUFFIXES = frozenset((".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt"))
_WIDE = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_HIGH = re.compile(rb"[\x80-\xff]+")
_PAIRS = re.compile(rb"(?:[\xa1-\xf7][\xa1-\xfe])+")
"""GB2312, whose characters are two high bytes each."""
_LONGEST_WORD = 2
"""High bytes that stand together in cp1252: `é`, `ïé`; more of them are no Western text."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Recoded:
    """A line of a file that was not UTF-8: which encoding it was; "" where that is not certain."""

    line: int
    encoding: str


def is_text(path: Path) -> bool:
    """Whether the file is one of text, judged by its name."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return path.is_file() and bool(suffixes) and suffixes[-1] in TEXT_SUFFIXES


def is_utf8(path: Path) -> bool:
    """Whether the file is UTF-8 without a mark at its start."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_data(path) as file:
        block = file.read(_BLOCK)
        if block.startswith((codecs.BOM_UTF8, *(mark for mark, _ in _WIDE))):
            return False
        try:
            while block:
                decoder.decode(block)
                block = file.read(_BLOCK)
            decoder.decode(b"", True)
        except UnicodeDecodeError:
            return False
    return True


def detect_recoded(source: Path) -> Format:
    """The format of a dataset, should its text also be in another encoding.

    Raises:
        DataError: nothing is there, or no format knows it.
    """
    try:
        return detect(source)
    except DataError:
        if not is_text(source) or is_utf8(source):
            raise
    with tempfile.TemporaryDirectory(prefix="vlforge-") as folder:
        copy = Path(folder) / source.name.removesuffix(".gz").removesuffix(".zst")
        with copy.open("wb") as file:
            for _ in recode(source, file):
                pass
        return detect(copy)


def recode(source: Path, target: BinaryIO) -> Iterator[Recoded]:
    """Copy a text file as UTF-8, line by line; tells of every line that was not.

    A line that is certainly neither UTF-8, GB18030 nor cp1252 is copied as it is.
    """
    with open_data(source) as file:
        head = file.read(4)
    wide = next((name for mark, name in _WIDE if head.startswith(mark)), "")
    if wide:
        yield Recoded(1, wide)
        with open_data(source) as file:
            for text in codecs.getreader(wide)(file, "replace"):
                target.write(text.encode("utf-8", "replace"))
        return
    with open_data(source) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                line = line.removeprefix(codecs.BOM_UTF8)
                yield Recoded(1, "utf-8 with a byte order mark")
            if line.isascii() or (encoding := encoding_of(line)) == "utf-8":
                target.write(line)
                continue
            yield Recoded(number, encoding)
            target.write(line.decode(encoding).encode("utf-8") if encoding else line)


def encoding_of(line: bytes) -> str:
    """utf-8, gb18030 or cp1252 where only that one fits the high bytes; else ""."""
    try:
        line.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass
    runs = _HIGH.findall(line)
    if all(_PAIRS.fullmatch(run) for run in runs) and any(len(run) > 2 for run in runs):
        return "gb18030" if _decodes(line, "gb18030") else ""
    if all(len(run) <= _LONGEST_WORD for run in runs) and not _has_utf8(runs):
        return "cp1252" if _decodes(line, "cp1252") else ""
    return ""


def _has_utf8(runs: list[bytes]) -> bool:
    """Whether a run is a character of UTF-8: then the line mixes encodings."""
    return any(len(run) > 1 and _decodes(run, "utf-8") for run in runs)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
