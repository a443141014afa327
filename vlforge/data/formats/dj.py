"""Data-Juicer's rows: `{"id", "text", "images"}`, one JSON object a line.

The k-th image token of `text` stands for `images[k]`; chunks of text and image
end in the end-of-chunk token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from vlforge.data.json_layout import Fields
from vlforge.data.json_lines import as_row, read_values, write_lines
from vlforge.data.json_rows import JsonRows, rest_of, text_of, with_extra
from vlforge.data.json_turns import Paths, picture_values, pictures_at, pictures_of
from vlforge.data.records import Holds, Picture, Record, Unfit
from vlforge.data.roots import place_all
from vlforge.types import EOC_TOKEN, IMAGE_TOKEN, LLAVA_IMAGE_TOKEN, DataError, Row, Sample, Turn

ROLE = re.compile(r"\[\[(human|gpt|system)\]\]: ")
"""How a dialogue is written into `text`: `[[human]]: question`, `[[gpt]]: answer`."""
_TURN_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
}
_NAMES = {role: name for name, role in _TURN_ROLES.items()}
_USED = frozenset({"id", "text", "images"})


def read(path: str | Path) -> Iterator[Row]:
    """The rows of a file, streamed.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object; names both.
    """
    for number, value in read_values(Path(path)):
        if isinstance(value, DataError):
            raise DataError(f"{path}:{number}: {value}")
        try:
            yield as_row(value)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None


def write(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows as JSON lines, whole or not at all; gives their number."""
    return write_lines(Path(path), rows)


def plain_text(text: str, image_token: str = IMAGE_TOKEN, eoc_token: str = EOC_TOKEN) -> str:
    """`text` without special tokens and without white space around it."""
    return text.replace(image_token, "").replace(eoc_token, "").strip()


def image_paths(row: Row, root: str, key: str = "images") -> list[str]:
    """The row's image paths, relative ones below `root`.

    Raises:
        DataError: not a list of paths; says what it is.
    """
    images = row.get(key)
    if images is None:
        return []
    if not isinstance(images, list):
        raise DataError(f"{key!r} is a {type(images).__name__}, not a list of paths")
    for image in images:
        if not isinstance(image, str) or not image:
            raise DataError(f"{key!r} holds {image!r} where a path is wanted")
    return place_all(root, images)


def to_sample(row: Row, root: str, place: str = "") -> Sample:
    """A dj row as turns: a dialogue where `[[human]]: ` marks one, else a caption.

    A caption becomes the turns `<image>` (one per image) and the text without
    special tokens; a text without images becomes one assistant turn.

    Raises:
        DataError: no text, token and image counts differ, or paths of a wrong type.
    """
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError(f"'text' is {type(text).__name__}, not a string")
    images = image_paths(row, root)
    token = IMAGE_TOKEN if IMAGE_TOKEN in text or not images else LLAVA_IMAGE_TOKEN
    count = text.count(token)
    if count != len(images):
        raise DataError(f"{count} image tokens but {len(images)} images")
    turns = _dialogue(text, token) if ROLE.match(text) else _caption(text, token, len(images))
    extra = {key: value for key, value in row.items() if key not in _USED}
    return Sample(str(row.get("id", place)), tuple(images), tuple(turns), extra)


def _caption(text: str, token: str, images: int) -> list[Turn]:
    caption = " ".join(
        chunk for part in text.split(EOC_TOKEN) if (chunk := plain_text(part, token))
    )
    if not caption:
        raise DataError("no text beside the special tokens")
    answer = Turn("assistant", caption)
    return [Turn("user", "\n".join([LLAVA_IMAGE_TOKEN] * images)), answer] if images else [answer]


def _dialogue(text: str, token: str) -> list[Turn]:
    parts = ROLE.split(text)[1:]
    turns: list[Turn] = []
    for role, said in zip(parts[::2], parts[1::2], strict=True):
        clean = said.replace(EOC_TOKEN, "").replace(token, LLAVA_IMAGE_TOKEN).strip()
        turns.append(Turn(_TURN_ROLES[role], clean))
    return turns


def from_sample(sample: Sample) -> Row:
    """A sample as a dj row: captions as Data-Juicer writes them, dialogues with `[[role]]: `."""
    said = sample.turns
    images = [LLAVA_IMAGE_TOKEN] * len(sample.images)
    row: dict[str, Any] = {"id": sample.id}
    if len(said) == 2 and said[0].text.split() == images:
        tokens = "".join([IMAGE_TOKEN] * len(images))
        row["text"] = f"{tokens}\n{said[1].text} {EOC_TOKEN}".lstrip("\n")
    elif len(said) == 1 and not images:
        row["text"] = f"{said[0].text} {EOC_TOKEN}"
    else:
        lines = [f"[[{_NAMES[t.role]}]]: {t.text}" for t in said]
        row["text"] = "\n".join(lines).replace(LLAVA_IMAGE_TOKEN, IMAGE_TOKEN) + f" {EOC_TOKEN}"
    row["images"] = list(sample.images)
    return {**row, **sample.extra}


@dataclass(frozen=True)
class DjFormat(JsonRows):
    """Data-Juicer's rows: `{"id", "text", "images"}`.

    A caption or document is its chunks, each ending in the end-of-chunk token; a
    conversation is `[[human]]: …` and `[[gpt]]: …` turns. Both image tokens are read.

    Args:
        image_token: stands for a picture in a text that is written.
        eoc_token: ends a chunk.
        text_key: the field with the text.
        image_key: the field with the pictures' paths.
    """

    image_token: str = IMAGE_TOKEN
    eoc_token: str = EOC_TOKEN
    text_key: str = "text"
    image_key: str = "images"

    name: ClassVar[str] = "dj"
    holds: ClassVar[Holds] = Holds(
        conversation=True, document=True, several_pictures=True, no_picture=True, extra=True
    )

    def _own(self) -> frozenset[str]:
        return frozenset(("id", self.text_key, self.image_key))

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has a text."""
        return isinstance(rows[0].get(self.text_key), str)

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: no text, or images that are no paths.
        """
        if self.text_key not in row:
            raise DataError(f"no {self.text_key!r}")
        text = text_of(row, self.text_key)
        pictures = pictures_of(row.get(self.image_key), root)
        return self._told(row.get("id"), text, pictures, rest_of(row, self._own()), line)

    def _told(
        self, number: Any, text: str, pictures: tuple[Picture, ...], extra: Row, line: int
    ) -> Record:
        token = self.image_token
        if pictures and token not in text and IMAGE_TOKEN in text:
            token = IMAGE_TOKEN
        text = text.replace(token, LLAVA_IMAGE_TOKEN)
        if text[:2] != "[[" or not ROLE.match(text):
            first, _, more = text.partition(self.eoc_token)
            chunks: tuple[str, ...] = (first.strip(),)
            if more or not chunks[0]:
                parts = text.split(self.eoc_token)
                chunks = tuple([chunk for part in parts if (chunk := part.strip())])
            return Record(number, pictures, (), chunks, extra, line)
        parts = ROLE.split(text.replace(self.eoc_token, ""))[1:]
        turns = tuple(
            Turn(_TURN_ROLES[role], said.strip())
            for role, said in zip(parts[::2], parts[1::2], strict=True)
        )
        return Record(number, pictures, turns, (), extra, line)

    @property
    def fields(self) -> Fields:
        """A text, and pictures by their paths."""
        return Fields(
            {"id": Any, "text": str, "images": Paths},
            needed=frozenset(("text",)),
            keys={"text": self.text_key, "images": self.image_key},
        )

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        return self._told(row.id, row.text, pictures_at(row.images, root), extra, line)

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: a text holds what means something else in this format.
        """
        row: Row = {} if record.id is None else {"id": record.id}
        row[self.text_key] = self._text(record).replace(LLAVA_IMAGE_TOKEN, self.image_token)
        row[self.image_key] = picture_values(record.pictures)
        return with_extra(row, record.extra, self._own())

    def _text(self, record: Record) -> str:
        chunks = _caption_chunks(record)
        texts = [turn.text for turn in record.turns] if chunks is None else chunks
        for text in texts:
            if self.eoc_token in text or ROLE.search(text) or self._is_token(text):
                raise Unfit("a text holds a token or role mark of this format")
        if chunks is None:
            lines = [f"[[{_NAMES[turn.role]}]]: {turn.text}" for turn in record.turns]
            return "\n".join(lines) + f" {self.eoc_token}"
        if len(chunks) == 1 and not record.pictures:
            return chunks[0]
        return " ".join(f"{chunk} {self.eoc_token}" for chunk in chunks)

    def _is_token(self, text: str) -> bool:
        return self.image_token != LLAVA_IMAGE_TOKEN and self.image_token in text


def _caption_chunks(record: Record) -> Sequence[str] | None:
    """The chunks of a document, and of a conversation that is but a caption; else None."""
    if not record.turns:
        return record.chunks
    said = record.turns
    marks = [LLAVA_IMAGE_TOKEN] * len(record.pictures)
    if len(said) == 1 and not marks and said[0].role == "assistant":
        return (said[0].text,)
    is_caption = len(said) == 2 and [turn.role for turn in said] == ["user", "assistant"]
    if not is_caption or not marks or said[0].text.split() != marks:
        return None
    return ("".join(marks) + f"\n{said[1].text}",)
