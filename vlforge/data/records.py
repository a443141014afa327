"""The one shape that every dataset format is read into and written from.

A record is a conversation (`turns`) or a document (`chunks`: a caption is a
document of one chunk). Either marks a picture's place by `<image>`, the k-th mark
for `pictures[k]`. What a format says beyond that travels in `extra`, so that a
record that comes back to its format is what it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from vlforge.data.roots import place_all
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, Turn

MARK = LLAVA_IMAGE_TOKEN


class Picture(msgspec.Struct, frozen=True, gc=False):
    """A picture of a record: a file, or bytes that travel with the record.

    `path` is as the data names it, relative to `root` where it is not absolute;
    "" where bytes have no name. `content` is the encoded file (jpeg, png …).
    """

    path: str = ""
    root: str = ""
    content: bytes | None = None

    @property
    def place(self) -> str:
        """The absolute path of the file."""
        return place_all(self.root, [self.path])[0]

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            DataError: the file is not there or cannot be read.
        """
        if self.content is not None:
            return self.content
        if "://" in self.path:
            raise DataError(f"picture is an address: {self.path} (vlforge download fetches it)")
        try:
            return Path(self.place).read_bytes()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise DataError(f"picture cannot be read: {self.place!r} ({why})") from None


class Record(msgspec.Struct, frozen=True, gc=False):
    """One sample of a dataset. Either `turns` or `chunks`, or neither for pictures alone.

    `id` is as the data has it (a string, a number, None). `line` is its place in
    the file it came from, from 1.
    """

    id: Any = None
    pictures: tuple[Picture, ...] = ()
    turns: tuple[Turn, ...] = ()
    chunks: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}
    line: int = 0

    @property
    def marks(self) -> int:
        """How often `<image>` stands in it."""
        texts = [turn.text for turn in self.turns] if self.turns else self.chunks
        return sum([text.count(MARK) for text in texts])


class Fault(msgspec.Struct, frozen=True, gc=False):
    """A row of a file that is no record: its place and one line on why."""

    line: int
    reason: str
    value: str = ""


@dataclass(frozen=True)
class Holds:
    """What a format can keep of a record."""

    conversation: bool = False
    document: bool = False
    several_pictures: bool = False
    no_picture: bool = False
    extra: bool = False
    embedded: bool = False
    """Pictures are stored in the data itself, not beside it."""


class Writer(Protocol):
    """Writes records; what it wrote appears under its name when the block ends without an error."""

    def __enter__(self) -> Writer: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...

    def write(self, record: Record) -> None:
        """Add one record.

        Raises:
            Unfit: the format cannot hold it; nothing was written of it.
        """
        ...


class Format(Protocol):
    """A dataset format: a frozen dataclass whose fields are its options."""

    name: str
    holds: Holds

    def recognises(self, path: Path) -> bool:
        """Whether what is at `path` is written in this format, judged by its content."""
        ...

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The records in order, streamed; a row that is none comes as a `Fault`.

        Raises:
            DataError: the file as a whole cannot be read.
        """
        ...

    def writer(self, path: Path) -> Writer:
        """Writes a new dataset at `path`."""
        ...


class Unfit(DataError):
    """A record that a format cannot hold; says what would be lost."""


def as_turns(record: Record) -> tuple[Turn, ...]:
    """The record as a conversation: a document becomes pictures asked about and its text."""
    if record.turns:
        return record.turns
    text = "\n".join(t for chunk in record.chunks if (t := chunk.replace(MARK, "").strip()))
    answer = Turn("assistant", text)
    if not record.pictures:
        return (answer,)
    return (Turn("user", "\n".join([MARK] * len(record.pictures))), answer)


def as_chunks(record: Record) -> tuple[str, ...]:
    """The record as a document.

    A single question that is nothing but pictures, and its answer, are a caption;
    other conversations cannot be told without their roles.

    Raises:
        Unfit: several rounds, or a question with words.
    """
    if not record.turns:
        return record.chunks
    said = [turn for turn in record.turns if turn.role != "system"]
    is_caption = len(said) == 2 and said[0].role == "user" and said[1].role == "assistant"
    if len(said) == 1 and not record.pictures:
        return (said[0].text,)
    if not is_caption or said[0].text.replace(MARK, "").strip():
        raise Unfit("a conversation has rounds and questions that a caption cannot hold")
    return (f"{MARK * len(record.pictures)}\n{said[1].text}",)


def caption_of(record: Record, *, loses_question: bool = False) -> str:
    """The text of a caption without marks; with `loses_question` the answer of a single round.

    Raises:
        Unfit: several rounds, or a question with words that would be lost.
    """
    if record.turns and loses_question:
        answers = [turn.text for turn in record.turns if turn.role == "assistant"]
        if len(answers) == 1:
            return answers[0].replace(MARK, "").strip()
    return "\n".join(
        text for chunk in as_chunks(record) if (text := chunk.replace(MARK, "").strip())
    )


def with_marks(record: Record) -> Record:
    """The record with a mark per picture before its first words, where it has none at all."""
    if not record.pictures or record.marks:
        return record
    marks = "\n".join([MARK] * len(record.pictures))
    if record.turns:
        turns = list(record.turns)
        first = next((i for i, turn in enumerate(turns) if turn.role == "user"), 0)
        turns[first] = Turn(turns[first].role, f"{marks}\n{turns[first].text}")
        return replace(record, turns=tuple(turns))
    if record.chunks:
        return replace(record, chunks=(f"{marks}\n{record.chunks[0]}", *record.chunks[1:]))
    return record


def check_fit(record: Record, holds: Holds) -> None:
    """Refuse a record that a format cannot hold.

    Raises:
        Unfit: says what does not fit.
    """
    if len(record.pictures) > 1 and not holds.several_pictures:
        raise Unfit(f"{len(record.pictures)} pictures where the format holds one")
    if not record.pictures and not holds.no_picture:
        raise Unfit("no picture")
    if record.marks != len(record.pictures):
        raise Unfit(f"{record.marks} image marks but {len(record.pictures)} pictures")


def pictures_below(root: str | Path, paths: Sequence[str]) -> tuple[Picture, ...]:
    """Pictures that a data file in the folder `root` names."""
    return tuple(Picture(path, os.path.abspath(root)) for path in paths)
