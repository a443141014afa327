"""The operators, found by their names in this folder's files; none is imported to be found.

`image_shape_filter` is the class `ImageShapeFilter`, wherever under `ops/` it
is written. A dotted path `package.module:Class` names one outside VLForge, and
`ops.foreign.load_custom` adds those of a user's own files.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from vlforge.types import RecipeError

_KINDS = "Filter|Mapper|Dedup|Deduplicator|Selector|Grouper|Aggregator|Pipeline"
_classes = re.compile(rf"\nclass (\w+(?:{_KINDS}))\(".encode()).findall
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_BASES = frozenset({"base.py", "batch.py", "index.py", "bind.py", "foreign.py", "custom"})
_custom: dict[str, type[Any]] = {}


@dataclass(frozen=True)
class OpInfo:
    """One line of `vlforge list ops`."""

    name: str
    kind: str
    doc: str
    fields: tuple[tuple[str, str], ...]
    """(key, default as written, "" where there is none) of its own keys, in order."""


@functools.cache
def places() -> dict[str, tuple[str, str]]:
    """(module, class) of each operator's name, in order of the names."""
    root = os.path.dirname(__file__)
    found = {}
    for folder, folders, files in os.walk(root):
        if folder == root:
            folders[:], files = set(folders) - _BASES, sorted(set(files) - _BASES)
        package = ["vlforge", "ops", *os.path.relpath(folder, root).split(os.sep)]
        for file in files:
            if not file.endswith(".py"):
                continue
            module = ".".join([part for part in (*package, file[: -len(".py")]) if part != "."])
            with open(os.path.join(folder, file), "rb", buffering=0) as opened:
                names = _classes(opened.read())
            found |= {name_of(name): (module, name) for name in map(bytes.decode, names)}
    return dict(sorted(found.items()))


def name_of(class_name: str) -> str:
    """The name in recipes of a class: `FooBarFilter` is `foo_bar_filter`."""
    return _WORD.sub("_", class_name).lower()


def is_operator_name(class_name: str) -> bool:
    """Whether a class of that name is an operator, and not what some of them are built on."""
    return re.fullmatch(rf"[^_]\w*(?:{_KINDS})", class_name) is not None


def use_custom(found: Mapping[str, type[Any]]) -> None:
    """Let `find` see these operators of a user's, and no other ones; they go before ours."""
    _custom.clear()
    _custom.update(found)


def want_custom(paths: Sequence[str] | str | None) -> None:
    """Make a user's own operators known, and forget those of another recipe.

    Raises:
        RecipeError: see `vlforge.ops.foreign.load_custom`.
    """
    if paths or _custom:
        from vlforge.ops.foreign import load_custom

        load_custom(paths)


def find(name: str) -> type[Any]:
    """The class of the operator `name`.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if ":" in name:
        return _outside(name)
    if name in _custom:
        return _custom[name]
    place = places().get(name)
    if place is None:
        from difflib import get_close_matches

        near = get_close_matches(name, [*places(), *_custom], n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"unknown operator {name!r}{hint or ': see `vlforge list ops`'}")
    module, cls = place
    found: type[Any] = getattr(importlib.import_module(module), cls)
    return found


def names() -> list[OpInfo]:
    """All operators with their kind, first line of documentation and own keys."""
    return [_info(name) for name in sorted({*places(), *_custom})]


def _info(name: str) -> OpInfo:
    from vlforge.ops.base import Filter, Operator

    cls = find(name)
    shared = {f.name for f in (*fields(Operator), *fields(Filter))}
    shared |= set(getattr(cls, "common_keys", ()))
    own = tuple((f.name, _default(f)) for f in fields(cls) if f.name not in shared)
    doc = (cls.__doc__ or "").strip().splitlines()[0]
    return OpInfo(name, cls.kind, doc, own)


def _default(field: Field[Any]) -> str:
    """The default as Python writes it; nothing where the key must be given."""
    if field.default is not MISSING:
        return repr(field.default)
    return "" if field.default_factory is MISSING else repr(field.default_factory())


def _outside(name: str) -> type[Any]:
    module, _, cls = name.partition(":")
    try:
        found: type[Any] = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"operator {name!r} cannot be imported: {error}") from None
    return found
