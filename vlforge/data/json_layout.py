"""Rows of JSON that are all alike, decoded into fields instead of into dictionaries.

A format says which fields it reads and what they are; what else the rows of a
file have is learned from them. Rows that are not so are decoded as any JSON is:
a layout saves time and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

_MAX_FIELDS = 64
_MISSES = 4
_ESCAPE = "extra."
_ODD = frozenset('"\\')
_decode = msgspec.json.Decoder(list[Any]).decode
_decode_lines = msgspec.json.Decoder().decode_lines

UNSET = msgspec.UNSET
"""Stands for a field that a row does not have."""


class Fields(msgspec.Struct, frozen=True):
    """What a format reads of a row: types by the names of its fields."""

    types: Mapping[str, Any]
    needed: frozenset[str] = frozenset()
    """Fields that a row must have; another one that is missing is None."""
    unset: frozenset[str] = frozenset()
    """Fields that are `UNSET` where they are missing."""
    own: frozenset[str] = frozenset()
    """Keys that the format reads beside these: rows that have one are not alike."""
    keys: Mapping[str, str] = {}
    """The key of a field in the data, where that is not its name."""


class Layout:
    """Decodes blocks of rows; those of one call are all fields (`has`) or all any JSON."""

    def __init__(self, fields: Fields):
        self._fields = fields
        self._known = {fields.keys.get(name, name) for name in fields.types}
        self.extra: list[str] = []
        """Further keys that rows of this file have."""
        self._misses = self._wait = 0
        self._learn(())

    def array(self, text: bytes) -> list[Any]:
        """The rows of an array."""
        if self._wait:
            self._wait -= 1
            return _decode(text)
        try:
            found: list[Any] = self._array(text)
            self._misses = 0
        except msgspec.ValidationError:
            found = _decode(text)
            self._missed(found)
        return found

    def lines(self, text: bytes) -> list[Any]:
        """The rows of lines."""
        if self._wait:
            self._wait -= 1
            return _decode_lines(text)
        try:
            found: list[Any] = self._lines(text)
            self._misses = 0
        except msgspec.ValidationError:
            found = _decode_lines(text)
            self._missed(found)
        return found

    def extras(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Per row the fields that the format does not know."""
        if not self.extra:
            return [{} for _ in rows]
        if len(self.extra) == 1:
            (key,) = self.extra
            return [{} if row.x0 is UNSET else {key: row.x0} for row in rows]
        return extras_of(rows)

    def has(self, rows: Sequence[Any]) -> bool:
        """Whether these rows, of one call and not none, are fields."""
        return rows[0].__class__ is self.row_type

    def _missed(self, rows: Iterable[Any]) -> None:
        """Learn the keys of rows that did not fit; where they are known, wait a while."""
        keys = dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row)
        known = self._known | self._fields.own
        new = [key for key in keys if key not in known and _can_be_learned(key)]
        if new and len(self._known) + len(new) <= _MAX_FIELDS:
            self._learn(new)
            return
        self._misses += 1
        if self._misses >= _MISSES:
            self._wait = 1 << min(self._misses, 10)

    def _learn(self, keys: Iterable[str]) -> None:
        self.extra += keys
        self._known |= set(self.extra)
        fields = self._fields
        parts: list[Any] = [(name, fields.types[name]) for name in sorted(fields.needed)]
        for name in sorted(fields.types.keys() - fields.needed):
            is_unset = name in fields.unset
            parts.append((name, fields.types[name], UNSET if is_unset else None))
        names = {f"x{at}": key for at, key in enumerate(self.extra)}
        parts += [(name, Any, UNSET) for name in names]
        row: Any = msgspec.defstruct(
            "Row",
            parts,
            namespace={"extra_keys": tuple(self.extra), "extra_values": _getter(len(self.extra))},
            rename={**fields.keys, **names},
            forbid_unknown_fields=True,
            gc=False,
        )
        self.row_type: Any = row
        self._array = msgspec.json.Decoder(list[row]).decode
        self._lines = msgspec.json.Decoder(row).decode_lines


def extras_of(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """`extra_of` each row."""
    kinds = set(map(type, rows))
    if len(kinds) == 1:
        kind: Any = kinds.pop()
        keys = kind.extra_keys
        values = list(map(kind.extra_values, rows))
        if UNSET not in chain.from_iterable(values):
            return _dicts(keys, values)
    return [extra_of(row) for row in rows]


def _dicts(keys: Sequence[str], values: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """A dictionary per row; a few keys at once are told three times as fast as by `zip`."""
    if len(keys) == 1:
        (a,) = keys
        return [{a: one} for (one,) in values]
    if len(keys) == 2:
        a, b = keys
        return [{a: one, b: two} for one, two in values]
    if len(keys) == 3:
        a, b, c = keys
        return [{a: one, b: two, c: three} for one, two, three in values]
    return [dict(zip(keys, cells, strict=True)) for cells in values]


def _getter(count: int) -> Any:
    """Gives the further fields of a row, as many as there are."""
    if count == 1:
        return staticmethod(lambda row: (row.x0,))
    if not count:
        return staticmethod(lambda row: ())
    return staticmethod(attrgetter(*[f"x{at}" for at in range(count)]))


def _can_be_learned(key: str) -> bool:
    """Whether it is a plain name: neither one in disguise nor one that a layout cannot have."""
    return key.isprintable() and not key.startswith(_ESCAPE) and not _ODD.intersection(key)


def extra_of(row: Any) -> dict[str, Any]:
    """The fields of a row of any layout that its format does not know."""
    keys = row.extra_keys
    if not keys:
        return {}
    values = row.extra_values(row)
    found = dict(zip(keys, values, strict=True))
    if UNSET in values:
        return {key: one for key, one in found.items() if one is not UNSET}
    return found
