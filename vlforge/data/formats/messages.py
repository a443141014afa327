"""OpenAI's messages: `{"messages": [{"role", "content"}]}`, pictures as parts of the content.

Reading knows `image_url` parts (paths, links, `data:` urls), the `image` parts of
Qwen and Hugging Face, and texts with `<image>` marks beside a list `images`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.data.json_layout import Fields
from vlforge.data.json_rows import JsonRows, rest_of, with_extra, without
from vlforge.data.json_turns import (
    PICTURE_FIELDS,
    TURN_FIELDS,
    Paths,
    fields_of,
    note,
    padded,
    picture_of,
    picture_values,
    pictures_at,
    pictures_of,
    speaker_of,
    turns_from,
    turns_type,
    with_fields,
    write_turns,
)
from vlforge.data.records import MARK, Holds, Picture, Record, Unfit, as_turns
from vlforge.types import DataError, Row, Turn

_OWN = frozenset(("id", "messages", "images"))
_FIELDS = Fields(
    {"id": Any, "messages": turns_type("role", "content"), "images": Paths},
    needed=frozenset(("messages",)),
)
_TURN_OWN = frozenset(("role", "content"))
_NAMES = {name: name for name in ("system", "user", "assistant", "tool", "tool_call")}
_TEXTS = ("text", "input_text", "output_text")
_MARKS = re.compile(r"\n?" + re.escape(MARK) + r"\n?")


@dataclass(frozen=True)
class MessagesFormat(JsonRows):
    """OpenAI's messages.

    Args:
        content: `parts` writes pictures as `image_url` parts where they stand;
            `marks` writes texts with `<image>` and a list `images` (LLaMA-Factory, ms-swift).
        embed: write pictures into the data, as `data:` urls.
    """

    content: Literal["parts", "marks"] = "parts"
    embed: bool = False

    name: ClassVar[str] = "messages"

    def __post_init__(self) -> None:
        if self.content not in ("parts", "marks"):
            raise DataError(f"content is {self.content!r}: take parts or marks")

    @property
    def holds(self) -> Holds:
        """What it can keep of a record."""
        return Holds(
            conversation=True,
            several_pictures=True,
            no_picture=True,
            extra=True,
            embedded=self.embed,
        )

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has messages."""
        said = rows[0].get("messages")
        return bool(isinstance(said, list) and said and isinstance(said[0], dict))

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: no messages, an unknown role, or parts that are neither text nor picture.
        """
        entries = row.get("messages")
        if not isinstance(entries, list) or not entries:
            raise DataError("'messages' is no list of messages")
        reading = _Reading(root, pictures_of(row.get("images"), root))
        for entry in entries:
            reading.add(entry)
        extra = with_fields(rest_of(row, _OWN), TURN_FIELDS, reading.all_fields())
        extra = with_fields(extra, PICTURE_FIELDS, reading.picture_fields)
        return Record(row.get("id"), reading.all_pictures(), tuple(reading.turns), (), extra, line)

    @property
    def fields(self) -> Fields:
        """Texts of plain speakers, pictures by their paths."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        pictures = pictures_at(row.images, root)
        return Record(row.id, pictures, turns_from(row.messages), (), extra, line)

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: marks and pictures do not match.
        """
        turns = as_turns(record)
        fields = fields_of(record, TURN_FIELDS, len(turns))
        extra = without(record.extra, TURN_FIELDS) if fields else record.extra
        entries = write_turns(turns, fields, _NAMES, "role", "content")
        row: Row = {} if record.id is None else {"id": record.id}
        row["messages"] = entries
        if record.pictures and self.content == "marks":
            row["images"] = picture_values(record.pictures)
        elif record.pictures:
            if sum(turn.text.count(MARK) for turn in turns) != len(record.pictures):
                raise Unfit("marks and pictures do not match")
            more = fields_of(record, PICTURE_FIELDS, len(record.pictures))
            extra = without(extra, PICTURE_FIELDS) if more else extra
            parts = _picture_parts(record.pictures, more)
            for entry, turn in zip(entries, turns, strict=True):
                if MARK in turn.text:
                    entry["content"] = list(_parts(turn.text, parts))
        return with_extra(row, extra, _OWN)


def _picture_parts(
    pictures: Sequence[Picture], fields: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for at, url in enumerate(picture_values(pictures)):
        more = fields[at] if fields else {}
        yield {"type": "image_url", "image_url": {"url": url, **more}}


def _parts(text: str, pictures: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The text's parts, a picture for each mark; line ends beside a mark go with it."""
    for at, piece in enumerate(_MARKS.split(text)):
        if at:
            yield next(pictures)
        if piece.strip():
            yield {"type": "text", "text": piece}


class _Reading:
    """Messages as they are taken in: turns, pictures, and what else they say."""

    def __init__(self, root: str, listed: tuple[Picture, ...]):
        self.turns: list[Turn] = []
        self.picture_fields: list[dict[str, Any]] = []
        self._fields: list[dict[str, Any]] = []
        self._found: list[Picture] = []
        self._root = root
        self._listed = listed
        self._next = iter(listed)

    def all_fields(self) -> list[dict[str, Any]]:
        """One entry a turn, or none."""
        return padded(self._fields, len(self.turns))

    def all_pictures(self) -> tuple[Picture, ...]:
        """The pictures of the parts, else the listed ones."""
        return tuple(self._found) or self._listed

    def add(self, entry: Any) -> None:
        """One message."""
        if not isinstance(entry, dict):
            raise DataError("a message is no object")
        role, special = speaker_of(entry.get("role"))
        content = entry.get("content")
        if isinstance(content, list):
            text = "\n".join(self._part(part) for part in content)
        elif isinstance(content, str):
            text = content
        elif content is None:
            text = ""
        else:
            raise DataError("a message's 'content' is neither text nor a list of parts")
        self.turns.append(Turn(role, text))
        if special or len(entry) > 2:
            note(self._fields, len(self.turns) - 1, special, rest_of(entry, _TURN_OWN))

    def _part(self, part: Any) -> str:
        if isinstance(part, str):
            return part
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXTS and isinstance(part.get("text"), str):
            return str(part["text"])
        if kind not in ("image_url", "image", "input_image"):
            raise DataError(f"a part is neither text nor picture: {kind!r}")
        self._found.append(self._picture(part))
        return MARK

    def _picture(self, part: dict[str, Any]) -> Picture:
        rest = {key: value for key, value in part.items() if key != "type"}
        held = next((rest.pop(key) for key in ("image_url", "image", "url", "path") if key in rest),
                    None)  # fmt: skip
        source = rest.pop("source", None)
        if isinstance(source, dict):
            held = {"bytes": source["data"]} if "data" in source else source
        if isinstance(held, dict) and "url" in held:
            rest |= {key: value for key, value in held.items() if key != "url"}
            held = held["url"]
        self.picture_fields.append(rest)
        if held is not None:
            return picture_of(held, self._root)
        following = next(self._next, None)
        if following is None:
            raise DataError("more image parts than 'images'")
        return following
