"""MMC4's documents: `{"text_list", "image_info": [{"image_name", "matched_text_index"}]}`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.json_layout import Fields
from vlforge.data.json_rows import ESCAPE, JsonRows, rest_of, with_extra, without
from vlforge.data.json_turns import PICTURE_FIELDS, fields_of, picture_values
from vlforge.data.records import MARK, Holds, Picture, Record, as_chunks
from vlforge.types import DataError, Row

_OWN = frozenset(("id", "text_list", "image_info"))
_INFO_OWN = frozenset(("image_name", "matched_text_index"))
_FIELDS = Fields(
    {"id": Any, "text_list": list[str], "image_info": list[dict[str, Any]] | None},
    needed=frozenset(("text_list",)),
)
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
        return self._told(row.get("id"), texts, infos, rest_of(row, _OWN), root, line)

    def _told(
        self,
        number: Any,
        texts: list[str],
        infos: list[Any],
        extra: dict[str, Any],
        root: str,
        line: int,
    ) -> Record:
        places = [place_of(info, len(texts)) for info in infos]
        if len(places) > 1:
            order = sorted(range(len(infos)), key=places.__getitem__)
            infos = [infos[at] for at in order]
            matrix = extra.get("similarity_matrix")
            if isinstance(matrix, list) and len(matrix) == len(order):
                extra["similarity_matrix"] = [matrix[at] for at in order]
        pictures = tuple([Picture(_name(info, self.image_dir), root) for info in infos])
        chunks = list(texts)
        for at, count in Counter(places).items() if len(places) > 1 else ((at, 1) for at in places):
            chunks[at] = " ".join([MARK] * count + [texts[at]] * bool(texts[at]))
        fields = [rest_of(info, _INFO_OWN) for info in infos]
        if any(fields):
            extra[PICTURE_FIELDS] = fields
        return Record(number, pictures, (), tuple(chunks), extra, line)

    @property
    def fields(self) -> Fields:
        """Texts and what is said of the pictures."""
        return _FIELDS

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of `fields`; its lists are used up."""
        infos, texts = row.image_info or [], row.text_list
        if len(infos) == 1 and not self.image_dir:
            (info,) = infos
            place, name = info.get("matched_text_index"), info.get("image_name")
            is_plain = place.__class__ is int and name.__class__ is str and name
            if is_plain and 0 <= place < len(texts) and ESCAPE not in "".join(info):
                texts[place] = f"{MARK} {texts[place]}" if texts[place] else MARK
                del info["matched_text_index"], info["image_name"]
                if info:
                    extra[PICTURE_FIELDS] = infos
                picture = Picture(name, root)
                return Record(row.id, (picture,), (), tuple(texts), extra, line)
        return self._told(row.id, texts, infos, extra, root, line)

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
        row["text_list"] = [
            _MARKED.sub(" ", chunk).strip() if MARK in chunk else chunk.strip() for chunk in chunks
        ]
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
    return os.path.join(folder, name) if folder else name
