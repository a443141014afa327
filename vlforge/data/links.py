"""Which rows of a dataset belong together: one picture, one text, one value of a field."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from vlforge.data.json_lines import encode
from vlforge.data.records import MARK, Fault, Format, Record
from vlforge.data.splitting import linked
from vlforge.types import DataError, ProgressFn, no_progress

Link = Literal["image", "text"]
_TOLD_EVERY = 1000
_MISSING = object()


@dataclass
class Links:
    """A dataset as splitting sees it: per row a group and a stratum."""

    rows: int = 0
    faults: int = 0
    groups: array[int] = field(default_factory=lambda: array("q"))
    strata: array[int] = field(default_factory=lambda: array("q"))
    names: list[str] = field(default_factory=list)
    """The value of the field that each stratum stands for."""

    def largest(self) -> int:
        """Rows of the largest group."""
        return max(Counter(self.groups).values(), default=0)


def find_links(
    source: Path,
    reader: Format,
    *,
    by: str = "",
    fields: Sequence[str] = (),
    links: Sequence[Link] = ("image", "text"),
    progress: ProgressFn = no_progress,
) -> Links:
    """Read a dataset once and say which rows belong together.

    Pictures are one where they are one file, or hold the same bytes; a file is
    read only where another picture is as large. Texts are one where all words of
    the record are the same, marks of pictures and white space around aside.

    Args:
        source: what `reader` reads.
        reader: its format.
        by: a field whose values are the strata; "" has one stratum.
        fields: fields whose equal values link rows; a missing or empty one links nothing.
        links: what else links rows.
        progress: told the rows so far.

    Raises:
        DataError: the dataset cannot be read or is empty, or no row has such a field.
    """
    look = _Look(by, fields, links)
    for found in reader.read(source):
        if isinstance(found, Fault):
            look.found.faults += 1
            continue
        look.add(found)
        if look.found.rows % _TOLD_EVERY == 0:
            progress(look.found.rows, None, "looking for rows that belong together")
    if not look.found.rows:
        raise DataError(f"{source} has no rows to split")
    look.add_contents()
    look.check_fields(source)
    look.found.groups = linked(look.found.rows, look.keys, look.owners)
    return look.found


class _Look:
    """Keys of the rows seen so far."""

    def __init__(self, by: str, fields: Sequence[str], links: Sequence[Link]):
        self.by, self.fields = by, fields
        self.has_image, self.has_text = "image" in links, "text" in links
        self.found = Links()
        self.keys, self.owners = array("Q"), array("q")
        self._numbers: dict[str, int] = {}
        self._files: dict[str, int] = {}
        self._sizes: Counter[int] = Counter()
        self._unseen = {*fields, *([by] if by else [])}
        self._some: list[str] = []

    def add(self, record: Record) -> None:
        """One row."""
        row = self.found.rows
        if self._unseen and len(self._some) < 12:
            self._some += [key for key in record.extra if key not in self._some]
        self.found.strata.append(self._stratum(record))
        for name in self.fields:
            value = value_of(record, name)
            if value is not _MISSING:
                self._unseen.discard(name)
            if value is not _MISSING and value not in (None, "", [], {}):
                self._key(b"g", f"{name}=".encode() + encode(value), row)
        if self.has_text:
            self._add_text(record, row)
        if self.has_image:
            self._add_pictures(record, row)
        self.found.rows += 1

    def _stratum(self, record: Record) -> int:
        if not self.by:
            return 0
        value = value_of(record, self.by)
        if value is _MISSING:
            name = "(none)"
        else:
            self._unseen.discard(self.by)
            name = value if isinstance(value, str) else encode(value).decode("utf-8", "replace")
        number = self._numbers.setdefault(name, len(self._numbers))
        if number == len(self.found.names):
            self.found.names.append(name)
        return number

    def _add_text(self, record: Record, row: int) -> None:
        texts = [turn.text for turn in record.turns] or list(record.chunks)
        words = "\x1f".join(text.replace(MARK, "").strip() for text in texts).strip("\x1f")
        if words:
            self._key(b"t", words.encode("utf-8", "surrogatepass"), row)

    def _add_pictures(self, record: Record, row: int) -> None:
        for picture in record.pictures:
            if picture.content is not None:
                self._key(b"c", picture.content, row)
                self._sizes[len(picture.content)] += 1
                continue
            place = os.path.normpath(picture.place)
            self._key(b"p", place.encode("utf-8", "surrogatepass"), row)
            self._files.setdefault(place, row)

    def _key(self, kind: bytes, data: bytes, row: int) -> None:
        digest = blake2b(data, digest_size=8, person=kind).digest()
        self.keys.append(int.from_bytes(digest, "little"))
        self.owners.append(row)

    def add_contents(self) -> None:
        """Keys of the files that another picture may be a copy of."""
        sizes = array("q", (_size_of(place) for place in self._files))
        self._sizes.update(sizes)
        for (place, row), size in zip(self._files.items(), sizes, strict=True):
            if size >= 0 and self._sizes[size] > 1:
                content = _content_of(place)
                if content is not None:
                    self._key(b"c", content, row)

    def check_fields(self, source: Path) -> None:
        """Refuse a field that no row had."""
        for name in sorted(self._unseen):
            has = ", ".join(self._some[:12]) or "none beside pictures and text"
            raise DataError(f"{source}: no row has a field {name!r}; fields are {has}")


def _size_of(place: str) -> int:
    try:
        return os.stat(place).st_size
    except (OSError, ValueError):
        return -1


def _content_of(place: str) -> bytes | None:
    try:
        return Path(place).read_bytes()
    except OSError:
        return None


def value_of(record: Record, name: str) -> Any:
    """A field of a record by its name, or by names with dots into nested ones; else a mark."""
    if name in record.extra:
        return record.extra[name]
    if name == "id":
        return record.id
    value: Any = record.extra
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value
