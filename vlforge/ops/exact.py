"""Dataclasses from values that already have the types of their fields.

That is so for nearly every recipe, and asking pydantic costs a quarter of the
start. What does not fit at once is pydantic's to convert or to refuse.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

Made = TypeVar("Made")

_PLAIN = {"int": int, "float": float, "str": str, "bool": bool}
"""The annotations that most fields have, which need not be evaluated."""
_NO = object()


def exactly(cls: type[Made], values: Mapping[str, Any]) -> Made | None:
    """`cls(**values)`, or None where a value is not what the field's annotation says.

    As in pydantic an int is a float's value too, a list a tuple's, and a table
    that of a dataclass.
    """
    found = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in values:
            if field.default is field.default_factory is dataclasses.MISSING:
                return None
            continue
        value = values[field.name]
        if type(value) is not type(field.default) or value != field.default:
            value = _fitted(value, _hint(cls, field))
        if value is _NO:
            return None
        found[field.name] = value
    if len(found) != len(values):
        return None
    try:
        return cls(**found)
    except ValueError:
        # Refused by its own check: pydantic names the key and the value.
        return None


def _hint(cls: Any, field: dataclasses.Field[Any]) -> Any:
    plain = _PLAIN.get(field.type) if isinstance(field.type, str) else None
    return hints_of(cls)[field.name] if plain is None else plain


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The types of a class's fields, worked out once."""
    return typing.get_type_hints(cls)


def _fitted(value: Any, hint: Any) -> Any:
    """The value as the annotation wants it, or `_NO`."""
    kind = type(value)
    if hint is Any or kind is hint or (value is None and hint is types.NoneType):
        return value
    if hint is float:
        return float(value) if kind is int else _NO
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        # The branch of the value's own type comes before one that converts it.
        branches = sorted(parts, key=lambda part: part is not kind)
        fitted = (_fitted(value, part) for part in branches)
        return next((one for one in fitted if one is not _NO), _NO)
    if origin is Literal:
        return value if any(value == one and kind is type(one) for one in parts) else _NO
    if origin in (tuple, list):
        return _fitted_items(value, origin, parts)
    if origin is dict and kind is dict:
        return _fitted_table(value, *parts)
    if kind is dict and isinstance(hint, type) and dataclasses.is_dataclass(hint):
        made = exactly(hint, value)
        return _NO if made is None else made
    return _NO


def _fitted_items(value: Any, origin: Any, parts: tuple[Any, ...]) -> Any:
    if type(value) is not list and type(value) is not origin:
        return _NO
    if origin is tuple and parts[-1] is not Ellipsis:
        if len(parts) != len(value):
            return _NO
        fitted = [_fitted(item, part) for item, part in zip(value, parts, strict=True)]
    else:
        fitted = [_fitted(item, parts[0]) for item in value]
    return _NO if any(item is _NO for item in fitted) else origin(fitted)


def _fitted_table(value: dict[Any, Any], key_hint: Any, hint: Any) -> Any:
    fitted = {_fitted(key, key_hint): _fitted(item, hint) for key, item in value.items()}
    return _NO if _NO in fitted or any(item is _NO for item in fitted.values()) else fitted
