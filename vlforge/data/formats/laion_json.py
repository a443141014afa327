"""Captions and links, as MiniGPT-4's `ccs_…` and `laion_synthetic_filtered_large.json`.

`[{"caption", "url"}]`: the pictures are not there yet, so a record has a text and a
field `url`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from vlforge.data.json_layout import Fields
from vlforge.data.json_rows import JsonRows, rest_of, with_extra, without
from vlforge.data.records import Holds, Record, Unfit, caption_of
from vlforge.types import DataError, Row

_OWN = frozenset(("id", "caption", "url"))
_FIELDS = Fields(
    {"id": Any, "caption": str, "url": Annotated[str, Meta(min_length=1)]},
    needed=frozenset(("caption", "url")),
)


@dataclass(frozen=True)
class LaionJsonFormat(JsonRows):
    """Captions and the links of their pictures; a picture that is there already is not kept."""

    name: ClassVar[str] = "laion_json"
    holds: ClassVar[Holds] = Holds(document=True, no_picture=True, extra=True)

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has a caption and a link, and no picture yet."""
        has_both = all(isinstance(rows[0].get(key), str) for key in ("caption", "url"))
        return has_both and "image" not in rows[0]

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
        extra = {"url": url, **rest_of(row, _OWN)}
        return Record(row.get("id"), (), (), (caption,) if caption else (), extra, line)

    @property
    def fields(self) -> Fields:
        """A caption and a link."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`."""
        caption = row.caption
        told = {"url": row.url, **extra} if extra else {"url": row.url}
        return Record(row.id, (), (), (caption,) if caption else (), told, line)

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: no link, or a conversation.
        """
        paths = (picture.path for picture in record.pictures)
        url = record.extra.get("url") or next((path for path in paths if "://" in path), None)
        if not isinstance(url, str):
            raise Unfit("no 'url' of its picture")
        row: Row = {} if record.id is None else {"id": record.id}
        row |= {"caption": caption_of(record), "url": url}
        return with_extra(row, without(record.extra, "url"), _OWN)
