"""MMC4's documents: `{"text_list", "image_info": [{"image_name", "matched_text_index"}]}`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.json_rows import JsonRows, rest_of, with_extra, without
from vlforge.data.json_turns import PICTURE_FIELDS, fields_of, picture_values, with_fields
from vlforge.data.records import MARK, Holds, Picture, Record, as_chunks
from vlforge.types import DataError, Row

_OWN = frozenset(("id", "text_list", "image_info"))
_INFO_OWN = frozenset(("image_name", "matched_text_index"))
_MARKED = re.compile(r"\s*" + re.escape(MARK) + r"\s*")


@dataclass(frozen=True)
class Mmc4Format(JsonRows):
    """MMC4's documents; a sentence is a chunk, its pictures stand before it.

    Pictures come in the order of their sentences; a `similarity_matrix` with a row
    for each is put into the same order.

    Args:
        image_dir: the pictures' folder, relative to the file.
    """

    image_dir: str = ""

    name: ClassVar[str] = "mmc4"
    holds: ClassVar[Holds] = Holds(
        document=True, several_pictures=True, no_picture=True, extra=True
    )

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether the first row has a list of texts."""
        return isinstance(rows[0].get("text_list"), list)

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: texts that are no strings, or a picture without name or sentence.
        """
        texts = row.get("text_list")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError("'text_list' is no list of strings")
        infos = row.get("image_info") or []
        if not isinstance(infos, list):
            raise DataError("'image_info' is no list")
        places = [place_of(info, len(texts)) for info in infos]
        order = sorted(range(len(infos)), key=places.__getitem__)
        names = [_name(infos[at], self.image_dir) for at in order]
        pictures = tuple(Picture(name, root) for name in names)
        chunks = tuple(
            " ".join([MARK] * places.count(at) + [text] * bool(text))
            for at, text in enumerate(texts)
        )
        fields = [rest_of(infos[at], _INFO_OWN) for at in order]
        extra = with_fields(rest_of(row, _OWN), PICTURE_FIELDS, fields)
        matrix = extra.get("similarity_matrix")
        if isinstance(matrix, list) and len(matrix) == len(order):
            extra["similarity_matrix"] = [matrix[at] for at in order]
        return Record(row.get("id"), pictures, (), chunks, extra, line)

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: a conversation of more than a caption.
        """
        chunks = as_chunks(record)
        fields = fields_of(record, PICTURE_FIELDS, len(record.pictures))
        places = [at for at, chunk in enumerate(chunks) for _ in range(chunk.count(MARK))]
        named = zip(picture_values(record.pictures), places, strict=False)
        folder = f"{self.image_dir.rstrip('/')}/" if self.image_dir else ""
        row: Row = {} if record.id is None else {"id": record.id}
        row["text_list"] = [_MARKED.sub(" ", chunk).strip() for chunk in chunks]
        row["image_info"] = [
            with_extra(
                {"image_name": name.removeprefix(folder), "matched_text_index": place},
                fields[at] if fields else {},
                _INFO_OWN,
            )
            for at, (name, place) in enumerate(named)
        ]
        extra = without(record.extra, PICTURE_FIELDS) if fields else record.extra
        return with_extra(row, extra, _OWN)


def place_of(info: Any, count: int) -> int:
    """The sentence that a picture belongs to, of `count`.

    Raises:
        DataError: none of them.
    """
    place = info.get("matched_text_index") if isinstance(info, dict) else None
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < count:
        raise DataError(f"'matched_text_index' is {place!r}, there are {count} texts")
    return place


def _name(info: dict[str, Any], folder: str) -> str:
    name = info.get("image_name")
    if not isinstance(name, str) or not name:
        raise DataError("a picture has no 'image_name'")
    return os.path.join(folder, name)
