"""Records as flat rows, for containers that keep pictures apart: tar members, tables, sidecars.

    {"id", "caption", ...}            a caption: marks of all pictures, then its words
    {"id", "chunks": [...], ...}      any other document, marks where they stand
    {"id", "conversations": [...]}    turns, {"from", "value"} each

What else a row has is `extra`. Rows of other makers are read too: `messages`
of role and content, `text` in place of `caption`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vlforge.data.json_rows import rest_of, with_extra
from vlforge.data.json_turns import (
    TURN_FIELDS,
    fields_of,
    read_turns,
    with_fields,
    write_turns,
)
from vlforge.data.records import MARK, Picture, Record, Unfit, caption_of
from vlforge.types import Turn

OWN = frozenset({"id", "caption", "conversations", "chunks", "image", "images"})
_NAMES = {"user": "human", "assistant": "gpt", "system": "system"}
_TEXTS = ("text", "TEXT", "txt", "CAPTION", "Caption")


def row_of(record: Record) -> dict[str, Any]:
    """The record without its pictures; `caption` is null where it has no words at all."""
    row: dict[str, Any] = {"id": record.id}
    extra = record.extra
    if record.turns:
        fields = fields_of(record, TURN_FIELDS, len(record.turns))
        row["conversations"] = write_turns(record.turns, fields, _NAMES)
        if fields:
            extra = {key: value for key, value in extra.items() if key != TURN_FIELDS}
    elif record.chunks:
        caption = plain_caption(record)
        if caption is None:
            row["chunks"] = list(record.chunks)
        else:
            row["caption"] = caption
    else:
        row["caption"] = None
    return with_extra(row, extra, OWN)


def plain_caption(record: Record) -> str | None:
    """The words of a document that is nothing but the marks of all pictures and these words."""
    if record.turns or len(record.chunks) != 1:
        return None
    words = record.chunks[0].removeprefix(_head(len(record.pictures)))
    is_plain = MARK not in words and _chunk(words, len(record.pictures)) == record.chunks[0]
    return words if is_plain else None


def any_caption(record: Record) -> str | None:
    """The words that a reader of captions should see, if the record can be told so."""
    found = plain_caption(record)
    if found is not None or not (record.turns or record.chunks):
        return found
    try:
        return caption_of(record)
    except Unfit:
        return None


def record_of(
    row: Mapping[str, Any],
    pictures: tuple[Picture, ...],
    *,
    text: str | None = None,
    name: Any = None,
    line: int = 0,
) -> Record:
    """The record of a row.

    Args:
        row: its fields.
        pictures: its pictures.
        text: a caption that stood beside the row.
        name: its id, where the row has none.
        line: its place in the data.

    Raises:
        DataError: a conversation that is none.
    """
    number = row.get("id", name)
    extra = rest_of(row, OWN)
    if row.get("conversations") is not None:
        said = read_turns(row["conversations"])
        extra = with_fields(extra, TURN_FIELDS, said.fields)
        return _told(Record(number, pictures, said.turns, (), extra, line), row, text)
    if is_texts(row.get("chunks")):
        return _told(Record(number, pictures, (), tuple(row["chunks"]), extra, line), row, text)
    caption = row.get("caption")
    turns: tuple[Turn, ...] = ()
    if "caption" not in row and text is None:
        if isinstance(extra.get("messages"), list):
            said = read_turns(extra.pop("messages"), "role", "content")
            extra, turns = with_fields(extra, TURN_FIELDS, said.fields), said.turns
        else:
            key = next((key for key in _TEXTS if isinstance(extra.get(key), str)), "")
            caption = extra.pop(key, None)
    elif text is not None and not _agree(caption, text):
        if caption is not None:
            extra["caption"] = caption
        caption = text.removesuffix("\n")
    elif caption is not None and not isinstance(caption, str):
        extra["caption"], caption = caption, None
    chunks = () if caption is None else (_chunk(caption, len(pictures)),)
    return Record(number, pictures, turns, chunks, extra, line)


def _told(record: Record, row: Mapping[str, Any], text: str | None) -> Record:
    """The record, with the caption that it has beside its words where that says something else."""
    caption = row.get("caption", text)
    if caption is None or caption == any_caption(record):
        return record
    return Record(
        record.id, record.pictures, record.turns, record.chunks,
        {**record.extra, "caption": caption}, record.line,
    )  # fmt: skip


def is_texts(value: Any) -> bool:
    """Whether it is a list of strings, not empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _agree(caption: Any, text: str) -> bool:
    return isinstance(caption, str) and caption.strip() == text.strip()


def _head(count: int) -> str:
    return "\n".join([MARK] * count) + "\n" if count else ""


def _chunk(words: str, count: int) -> str:
    """A caption's chunk; words that hold marks themselves stay as they are."""
    return words if MARK in words else _head(count) + words


def name_pictures(
    row: Mapping[str, Any], contents: list[bytes]
) -> tuple[Mapping[str, Any], tuple[Picture, ...]]:
    """Pictures of a row with the names it has for them, and the row without what names none."""
    if "images" not in row and "image" not in row:
        return row, tuple([Picture(content=content) for content in contents])
    named = row.get("images", row.get("image"))
    names = named if isinstance(named, list) else [named]
    fits = len(names) == len(contents) and all(isinstance(one, str) for one in names)
    if not fits:
        odd = {f"extra.{key}": row[key] for key in ("image", "images") if key in row}
        names = [""] * len(contents)
        row = {**row, **odd} if odd else row
    return row, tuple(
        Picture(name, content=content) for name, content in zip(names, contents, strict=True)
    )


def picture_names(record: Record) -> dict[str, Any]:
    """`image` or `images`: what the pictures were called, without the folders of one machine."""
    names = [
        os.path.basename(one.path) if os.path.isabs(one.path) else one.path
        for one in record.pictures
    ]
    if not any(names):
        return {}
    return {"image": names[0]} if len(names) == 1 else {"images": names}
