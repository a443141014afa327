"""Captions and links, as MiniGPT-4's `ccs_…` and `laion_synthetic_filtered_large.json`.

`[{"caption", "url"}]`: where the pictures are not there yet, a record has a text and a
field `url`; a path in `image` is a picture that is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from vlforge.data.json_layout import Fields
from vlforge.data.json_rows import JsonRows, rest_of, with_extra, without
from vlforge.data.json_turns import pictures_at, pictures_of
from vlforge.data.records import MARK, Holds, Picture, Record, Unfit, caption_of
from vlforge.types import DataError, Row

_OWN = frozenset(("id", "caption", "url", "image"))
_FIELDS = Fields(
    {"id": Any, "image": str | None, "caption": str, "url": Annotated[str, Meta(min_length=1)]},
    needed=frozenset(("caption", "url")),
)


@dataclass(frozen=True)
class LaionJsonFormat(JsonRows):
    """Captions and the links of their pictures; `image` is the path of one that is there."""

    name: ClassVar[str] = "laion_json"
    holds: ClassVar[Holds] = Holds(document=True, no_picture=True, extra=True)

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether one of the first rows has a caption and a link."""
        return any(
            isinstance(row.get("caption"), str) and isinstance(row.get("url"), str) for row in rows
        )

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: no caption or no url.
        """
        caption, url = row.get("caption"), row.get("url")
        if not isinstance(caption, str):
            raise DataError("no 'caption'")
        if not isinstance(url, str) or not url:
            raise DataError("no 'url'")
        pictures = pictures_of(row.get("image"), root)
        return _record(row.get("id"), caption, url, pictures, rest_of(row, _OWN), line)

    @property
    def fields(self) -> Fields:
        """A caption and a link."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        pictures = pictures_at(row.image, root) if row.image else ()
        return _record(row.id, row.caption, row.url, pictures, extra, line)

    def columns(
        self, rows: Sequence[Any], extras: list[dict[str, Any]], root: str, line: int
    ) -> Iterable[Record] | None:
        """What `alike` gives for many rows; None where one has no caption, or a picture."""
        captions = [row.caption for row in rows]
        if not all(captions) or any(row.image for row in rows):
            return None
        told = [{"url": row.url, **extra} for row, extra in zip(rows, extras, strict=True)]
        numbers = [row.id for row in rows]
        chunks = zip(captions, strict=True)
        return map(Record, numbers, repeat(()), repeat(()), chunks, told, count(line))

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: no link, a conversation, or a picture that has no file.
        """
        path = record.pictures[0].path if record.pictures else ""
        link = path if "://" in path else None
        url = record.extra.get("url") or link
        if not isinstance(url, str):
            raise Unfit("no 'url' of its picture")
        row: Row = {} if record.id is None else {"id": record.id}
        row |= {"caption": caption_of(record), "url": url}
        if record.pictures and path != url:
            if not path or record.pictures[0].content is not None:
                raise Unfit("a picture has no file: use --images extract")
            row["image"] = path
        return with_extra(row, without(record.extra, "url"), _OWN)


def _record(
    number: Any,
    caption: str,
    url: str,
    pictures: tuple[Picture, ...],
    extra: dict[str, Any],
    line: int,
) -> Record:
    told = {"url": url, **extra} if extra else {"url": url}
    text = f"{MARK}\n{caption}" if pictures and MARK not in caption else caption
    return Record(number, pictures, (), (text,) if text else (), told, line)
