"""Turns a mapping into a frozen dataclass: unknown keys named, all type errors at once."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vlforge.ops.exact import exactly, hints_of
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

Where = Callable[..., str]
"""Gives `file:line` for a path of keys below the mapping."""


def build(cls: type[Any], settings: Mapping[str, Any], where: Where) -> Any:
    """An instance of the dataclass `cls`.

    A key of a nested group may be given directly where only one group has it:
    `lr` for `optimiser.lr`.

    Raises:
        RecipeError: unknown keys (nearest known one, file and line) or wrong
            types, every one of them, a line each.
    """
    data = lift_short_names(cls, dict(settings))
    problems = list(_unknown(cls, data, (), where))
    if problems:
        raise RecipeError("\n".join(problems))
    made = exactly(cls, data)
    if made is not None:
        return made
    from pydantic import ValidationError

    try:
        adapter: Any = _adapter(cls)  # type: ignore[arg-type]
        return adapter.validate_python(data)
    except ValidationError as error:
        items = error.errors()
        paths = {_path(item) for item in items}
        told = [item for item in items if not _has_closer(_path(item), paths)]
        branches: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for item in told:
            branches.setdefault(_path(item), []).append(item)
        lines = [_line(same, where) for same in branches.values()]
        raise RecipeError("\n".join(dict.fromkeys(lines))) from None


def lift_short_names(cls: type[Any], data: dict[str, Any]) -> dict[str, Any]:
    """Move keys that only one nested group knows into that group."""
    hints = hints_of(cls)  # type: ignore[arg-type]
    known = {f.name for f in dataclasses.fields(cls)}
    groups = {name: g for name in known if (g := _dataclass_of(hints[name])) is not None}
    out = dict(data)
    for key in [k for k in data if k not in known]:
        owners = [n for n, g in groups.items() if key in {f.name for f in dataclasses.fields(g)}]
        inner = out.get(owners[0]) if len(owners) == 1 else None
        if len(owners) == 1 and (inner is None or isinstance(inner, dict)):
            out[owners[0]] = {**(inner or {}), key: out.pop(key)}
    return out


@functools.cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _unknown(cls: type[Any], data: Mapping[str, Any], at: tuple[Any, ...], where: Where) -> Any:
    hints = hints_of(cls)  # type: ignore[arg-type]
    known = [f.name for f in dataclasses.fields(cls)]
    groups = [group for name in known if (group := _dataclass_of(hints[name])) is not None]
    short = [f.name for group in groups for f in dataclasses.fields(group)]
    for key, value in data.items():
        if key not in known:
            dotted = ".".join(map(str, (*at, key)))
            yield f"{where(*at, key)}: unknown key {dotted!r}{nearest(key, [*known, *short])}"
            continue
        inner = _dataclass_of(hints[key])
        if inner is not None:
            for place, item in _inner_mappings(value):
                yield from _unknown(inner, item, (*at, key, *place), where)


def _inner_mappings(value: Any) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """`value` itself, or its items, where they are mappings; with the way to them."""
    if isinstance(value, Mapping):
        yield (), value
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            if isinstance(item, Mapping):
                yield (number,), item


def _dataclass_of(hint: Any) -> type[Any] | None:
    """The dataclass inside a hint: itself, in a union, or as a tuple's item."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, list):
        for part in typing.get_args(hint):
            found = _dataclass_of(part)
            if found is not None:
                return found
    return None


def _path(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(part for part in item["loc"] if not _is_branch(part))


def _has_closer(path: tuple[Any, ...], paths: set[tuple[Any, ...]]) -> bool:
    """Whether another branch of a union got further than `path` before it failed."""
    return any(other[: len(path)] == path and len(other) > len(path) for other in paths)


def _line(branches: Sequence[Mapping[str, Any]], where: Where) -> str:
    """What is wrong with one key: of a union, what each branch wants."""
    item = branches[0]
    path = _path(item)
    dotted = ".".join(map(str, path))
    wanted = [str(one["msg"]).removeprefix("Input ") for one in branches]
    message = " or ".join(dict.fromkeys(wanted))
    if item["type"] == "missing":
        return f"{where(*path[:-1])}: {dotted!r} is missing"
    if item["type"] == "value_error":
        return f"{where(*path)}: {message.removeprefix('Value error, ')}"
    given = item.get("input")
    shown = repr(given) if len(repr(given)) < 60 else repr(given)[:57] + "..."
    return f"{where(*path)}: {dotted!r} is {shown}, but {message}"


def _is_branch(part: Any) -> bool:
    """Whether pydantic names a union's branch here rather than a key of the file."""
    return isinstance(part, str) and (
        part in ("str", "int", "float", "bool") or "[" in part or part[:1].isupper()
    )
