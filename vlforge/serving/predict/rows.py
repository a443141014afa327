"""The rows of an input as requests: each has its place, and what is wrong with it if anything.

Every row of the input is one row here, those that cannot be asked too: nothing is passed
over, so that an output can have as many rows as its input.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace as changed

from vlforge.data.json_arrays import READ_FAULTS
from vlforge.data.json_lines import encode, is_array, open_data, read_values
from vlforge.data.records import Fault, Format, Record, with_marks
from vlforge.serving.predict.caption_tsv import (
    begins_as_base64,
    caption_rows,
    from_any_base64,
    is_caption_tsv,
    may_be_caption_tsv,
)
from vlforge.serving.predict.row import Row
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, Sample, Turn

PROMPT = "请描述图片内容"
"""What is asked where nothing else is."""
Kind = Literal["tsv", "json", "folder"]
_BLOCK = 1 << 20
_HEAD = 4096


@dataclass(frozen=True)
class Source:
    """An input and how it is read.

    Attributes:
        format: of `vlforge list formats`, or `auto`.
        images: where relative picture paths start; "": beside the data.
        prompt: asked of every row, whatever the row asks; "": rows ask, or `PROMPT` is asked.
    """

    path: Path
    format: str = "auto"
    images: str = ""
    prompt: str = ""


def open_source(source: Source) -> tuple[Kind, Callable[[], Iterator[Row]]]:
    """What kind of input it is, and what reads its rows, from the first one on.

    Raises:
        DataError: nothing is there, or no format knows it.
    """
    path = source.path
    if not path.exists() and not any(mark in str(path) for mark in "{*"):
        raise DataError(f"{path}: no such input file or folder")
    if path.is_file() and not path.stat().st_size:
        raise DataError(f"{path} is empty: there is nothing to answer")
    wanted = source.format.replace("-", "_")
    if wanted == "tsv_base64" or (wanted == "auto" and is_caption_tsv(path)):
        return "tsv", lambda: caption_rows(path, source.prompt or PROMPT)
    if wanted in ("auto", "questions") and path.is_file() and _asks_plainly(path):
        return "json", lambda: _question_rows(source)
    from vlforge.data.formats import index

    try:
        reader = index.detect(path) if wanted == "auto" else index.find(wanted)
    except DataError:
        if wanted != "auto" or not may_be_caption_tsv(path):
            raise
        return "tsv", lambda: caption_rows(path, source.prompt or PROMPT)
    kind: Kind = "folder" if reader.name == "folder" else "json"
    return kind, lambda: _record_rows(source, reader)


def count_rows(source: Source, kind: Kind, rows: Callable[[], Iterator[Row]]) -> int | None:
    """How many rows there are, as far as that can be told without much work."""
    is_packed = source.path.suffix in (".gz", ".zst")
    if kind == "folder":
        return sum(1 for _ in rows())
    if is_packed or not source.path.is_file():
        return None
    if kind == "tsv" or not is_array(source.path):
        return _count_lines(source.path)
    return None if source.path.stat().st_size > 1 << 30 else sum(1 for _ in rows())


def _count_lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _asks_plainly(path: Path) -> bool:
    """Whether the first row of JSON names a picture or a question, and is of no other format.

    A file of blank lines, too: it is told that there is no row, and not that it is unknown.
    """
    try:
        with open_data(path) as file:
            head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
        if head and head[:1] not in b"{[":
            return False
        first = next((value for _, value in read_values(path)), None)
    except READ_FAULTS:
        return False
    if first is None:
        return True
    others = ("conversations", "messages", "instruction", "query", "annotations")
    if not isinstance(first, dict) or any(key in first for key in others):
        return False
    return isinstance(first.get("question"), str) or "image" in first or "prompt" in first


def _question_rows(source: Source) -> Iterator[Row]:
    """Rows with a `question` (or `text`, `prompt`) and an `image` (or `images`)."""
    root = os.path.abspath(source.images or source.path.parent)
    for number, (line, value) in enumerate(read_values(source.path)):
        if not isinstance(value, dict):
            why = str(value) if isinstance(value, DataError) else "no object"
            yield Row(number, _digest(f"{line}{why}".encode()), str(number), None, "no row", why)
            continue
        name = value.get("id", value.get("question_id", number))
        digest = _digest(encode(value))
        words = next((value[k] for k in ("question", "prompt", "text") if value.get(k)), "")
        images = value.get("images", value.get("image"))
        images = [] if images is None else images if isinstance(images, list) else [images]
        try:
            pictures = tuple(_placed(image, root) for image in images)
            sample = _asked(name, pictures, (Turn("user", str(words)),), source.prompt)
        except DataError as error:
            yield Row(number, digest, name, None, "picture cannot be read", str(error))
            continue
        yield Row(number, digest, name, sample)


def _placed(image: Any, root: str) -> str | bytes:
    """A picture's path, or its bytes where the row holds them in base64.

    Raises:
        DataError: neither, or an address.
    """
    if isinstance(image, Mapping):
        image = image.get("path") or image.get("url") or image.get("image")
    if not isinstance(image, str) or not image:
        raise DataError(f"a picture is a {type(image).__name__}: a path or base64 is wanted")
    if image.startswith("data:") or (len(image) > 255 and begins_as_base64(image.encode())):
        return from_any_base64(image.encode())[0]
    if "://" in image:
        raise DataError(f"picture is an address: {image} (vlforge download fetches it)")
    return os.path.join(root, image)


def _record_rows(source: Source, reader: Format) -> Iterator[Row]:
    """Rows of a dataset: its last question, without the answer that may follow it."""
    home = os.path.abspath(source.images) if source.images else None
    for number, found in enumerate(reader.read(source.path)):
        if isinstance(found, Fault):
            digest = _digest(f"{found.line} {found.reason} {found.value}".encode())
            yield Row(number, digest, str(number), None, found.reason, found.value)
            continue
        if home is not None:
            moved = tuple(changed(p, root=home) if p.root else p for p in found.pictures)
            found = changed(found, pictures=moved)
        name = _name(found, number, reader.name)
        try:
            sample = _sample(found, name, source.prompt)
        except DataError as error:
            digest = _digest(f"{name} {error}".encode())
            yield Row(number, digest, name, None, "picture cannot be read", str(error))
            continue
        yield Row(number, digest_of(sample), name, sample)


def _name(record: Record, number: int, format_name: str) -> Any:
    """The record's id; of a picture in a folder its path, unless its json says another."""
    path = record.pictures[0].path if record.pictures else ""
    if format_name == "folder" and record.id == path.rpartition(".")[0]:
        return path
    return str(number) if record.id is None else record.id


def _sample(record: Record, name: Any, prompt: str) -> Sample:
    for picture in record.pictures:
        if picture.content is None and "://" in picture.path:
            raise DataError(f"picture is an address: {picture.path} (vlforge download fetches it)")
    pictures = tuple(p.place if p.content is None else p.content for p in record.pictures)
    turns = with_marks(record).turns
    while turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    return _asked(name, pictures, turns, prompt)


def _asked(
    name: Any, pictures: tuple[str | bytes, ...], turns: tuple[Turn, ...], prompt: str
) -> Sample:
    """The conversation, open for its answer; `prompt` in place of all that users asked."""
    said = "".join(turn.text for turn in turns if turn.role == "user")
    if prompt or not said.replace(LLAVA_IMAGE_TOKEN, "").strip():
        told = tuple(turn for turn in turns if turn.role == "system")
        turns = (*told, Turn("user", prompt or PROMPT))
    if pictures and not any(LLAVA_IMAGE_TOKEN in turn.text for turn in turns):
        at = next(place for place, turn in enumerate(turns) if turn.role == "user")
        marks = f"{LLAVA_IMAGE_TOKEN}\n" * len(pictures)
        turns = (*turns[:at], Turn("user", marks + turns[at].text), *turns[at + 1 :])
    return Sample(str(name), pictures, turns)


def digest_of(sample: Sample) -> int:
    """Names what is asked; a picture that is a file counts by its path."""
    parts = [repr((sample.id, [(turn.role, turn.text) for turn in sample.turns])).encode()]
    parts += [p if isinstance(p, bytes) else p.encode("utf-8", "replace") for p in sample.images]
    return _digest(b"\x00".join(parts))


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
