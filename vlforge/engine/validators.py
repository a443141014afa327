"""Checks of a dataset's first rows that a recipe may ask for, as Data-Juicer makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from vlforge.data.json_lines import decode
from vlforge.engine.inputs import Part
from vlforge.types import DataError, RecipeError, Row

_ROLES = ("system", "user", "assistant")
_TYPES: Mapping[str, type] = {
    "str": str, "string": str, "int": int, "integer": int, "float": float, "bool": bool,
    "boolean": bool, "list": list, "dict": dict, "tuple": tuple, "set": set, "bytes": bytes,
}  # fmt: skip
_KEYS = {
    "swift_messages": {"min_turns", "max_turns", "sample_size"},
    "dj_conversation": {"min_turns", "max_turns", "sample_size"},
    "required_fields": {"required_fields", "field_types", "allow_missing", "sample_size"},
    "code": {"supported_languages"},
}


def check_datasets(
    units: Sequence[Sequence[Part]], validators: Sequence[Mapping[str, Any]]
) -> None:
    """Check the first rows of each dataset.

    Raises:
        RecipeError: an unknown validator, or keys that it does not take.
        DataError: a dataset that fails; names the row and what is wrong with it.
    """
    for wanted in validators:
        check = _check(wanted)
        for parts in units:
            rows = list(islice(_rows(parts), int(wanted.get("sample_size", 100))))
            fault = check(wanted, rows)
            if fault is not None:
                path = parts[0].origin.path
                raise DataError(f"dataset {path} fails validator {wanted['type']}: {fault}")


def _check(wanted: Mapping[str, Any]) -> Callable[[Mapping[str, Any], list[Row]], str | None]:
    kind = wanted.get("type")
    if kind not in _KEYS:
        raise RecipeError(f"validator type {kind!r} is not known; known: {', '.join(_KEYS)}")
    for key in wanted:
        if key not in (*_KEYS[kind], "type"):
            raise RecipeError(
                f"validator {kind}: unknown key {key!r}; known: {sorted(_KEYS[kind])}"
            )
    if kind == "required_fields":
        if not wanted.get("required_fields"):
            raise RecipeError("validator required_fields needs `required_fields`, a list of names")
        _types_of(wanted)
        return _missing_fields
    if kind == "code":
        return lambda _wanted, _rows: None
    return _bad_conversations


def _rows(parts: Sequence[Part]) -> Iterator[Row]:
    chunks = (chunk for part in parts for chunk in part.reader.chunks(100, 1, 0))
    rows = (_row(line) for chunk in chunks for line in chunk.lines)
    return (row for row in rows if row is not None)


def _row(line: bytes) -> Row | None:
    """The line as a row; what is none is reported when the run reads it."""
    try:
        row = decode(line) if not line.isspace() else None
    except DataError:
        return None
    return row if isinstance(row, dict) else None


def _types_of(wanted: Mapping[str, Any]) -> dict[str, type]:
    out = {}
    for field, name in (wanted.get("field_types") or {}).items():
        if str(name).lower() not in _TYPES:
            raise RecipeError(f"validator required_fields: {field} is of unknown type {name!r}")
        out[field] = _TYPES[str(name).lower()]
    return out


def _missing_fields(wanted: Mapping[str, Any], rows: list[Row]) -> str | None:
    allowed = float(wanted.get("allow_missing", 0.0))
    types = _types_of(wanted)
    for field in wanted["required_fields"]:
        values = [row.get(field) for row in rows]
        missing = sum(value is None for value in values)
        if not any(field in row for row in rows):
            return f"no field {field!r}"
        if missing / len(rows) > allowed:
            return f"{field!r} is missing in {missing} of the first {len(rows)} rows"
        kind = types.get(field)
        wrong = next(
            (v for v in values if kind and v is not None and not isinstance(v, kind)), None
        )
        if wrong is not None:
            return f"{field!r} is {wrong!r:.60}, not {wanted['field_types'][field]}"
    return None


def _bad_conversations(wanted: Mapping[str, Any], rows: list[Row]) -> str | None:
    fault = _bad_messages if wanted["type"] == "swift_messages" else _bad_turns
    bounds = (int(wanted.get("min_turns", 1)), int(wanted.get("max_turns", 100)))
    for number, row in enumerate(rows, 1):
        said = fault(row, bounds)
        if said is not None:
            return f"row {number}: {said}"
    return None


def _bad_messages(row: Row, bounds: tuple[int, int]) -> str | None:
    messages = row.get("messages")
    if not isinstance(messages, list):
        return "'messages' is no list"
    if not bounds[0] <= len(messages) <= bounds[1]:
        return f"{len(messages)} messages, not {bounds[0]} to {bounds[1]}"
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            return f"message {at} has the role {role!r}; known: {', '.join(_ROLES)}"
        if message.get("content") is None:
            return f"message {at} has no 'content'"
    return None


def _bad_turns(row: Row, bounds: tuple[int, int]) -> str | None:
    for field in ("instruction", "query", "response"):
        if not isinstance(row.get(field), str):
            return f"{field!r} is no string"
    if "system" in row and not isinstance(row["system"], str):
        return "'system' is no string"
    history = row.get("history", [])
    if not isinstance(history, list):
        return "'history' is no list"
    if "history" in row and not bounds[0] <= len(history) + 1 <= bounds[1]:
        return f"{len(history) + 1} turns, not {bounds[0]} to {bounds[1]}"
    for at, turn in enumerate(history):
        is_pair = isinstance(turn, list) and len(turn) == 2
        if not is_pair or not all(isinstance(said, str) for said in turn):
            return f"turn {at} of 'history' is not a pair of strings"
    return None
