"""Which settings of recipes differ: flat names side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.reports.run_files import shorten

_UNTOLD = ("name", "sizes")
"""A run's name stands at its head; sizes that were not chosen change nothing."""
_LENGTH = 160
_ORDER = " (order)"


@dataclass(frozen=True)
class Differing:
    """One setting: its dotted name, and per recipe its value, None where it is not given."""

    name: str
    values: tuple[str | None, ...]


def recipe_differences(recipes: Sequence[Mapping[str, Any]]) -> list[Differing]:
    """Settings that are not the same in all recipes, in their order; empty recipes say nothing."""
    flat = [dict(_flat(recipe)) for recipe in recipes]
    known = [one for one in flat if one]
    names = dict.fromkeys(name for one in known for name in one)
    missing = object()
    found = []
    for name in names:
        values = [one.get(name, missing) for one in known]
        if any(value != values[0] for value in values[1:]):
            told = (_words(one[name]) if name in one else None for one in flat)
            found.append(Differing(name, tuple(told)))
    return _steps_told(found)


def _flat(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in recipe.items():
        if key not in _UNTOLD:
            yield from _leaves(str(key), value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Settings below `name`. Steps of a list go by their own names, and their order is one more."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        titles = _titles(value)
        yield f"{name}{_ORDER}", titles
        for title, one in zip(titles, value, strict=True):
            yield from _leaves(f"{name}[{title}]", _inner(one))
    else:
        yield name, value


def _titles(steps: Sequence[Any]) -> list[str]:
    """A name for each step: its only key, its label or name; numbered from the second use on."""
    titles: list[str] = []
    for place, step in enumerate(steps):
        stem = str(place)
        if isinstance(step, Mapping):
            given = step.get("label") or step.get("name")
            stem = str(given or next(iter(step), place)) if given or len(step) == 1 else stem
        else:
            stem = shorten(str(step), 40)
        again, title = 2, stem
        while title in titles:
            again, title = again + 1, f"{stem} {again}"
        titles.append(title)
    return titles


def _inner(step: Any) -> Any:
    """What is set in a step: `{operator: {…}}` is the operator's settings."""
    if isinstance(step, Mapping) and len(step) == 1:
        value = next(iter(step.values()))
        return {} if value is None else value
    return step


def _steps_told(found: Sequence[Differing]) -> list[Differing]:
    """Of lists of steps those that not all recipes have, or else their order."""
    told, lone = [], set()
    for one in found:
        prefix, is_list, _ = one.name.partition(_ORDER)
        if not is_list:
            told.append(one)
            continue
        steps = [value.split(", ") if value else [] for value in one.values]
        given = [some for some, value in zip(steps, one.values, strict=True) if value is not None]
        shared = set.intersection(*map(set, given))
        lone |= {f"{prefix}[{step}]" for some in given for step in some if step not in shared}
        if any(set(some) != shared for some in given):
            own = (", ".join(step for step in some if step not in shared) for some in steps)
            words = (None if v is None else w or "–" for w, v in zip(own, one.values, strict=True))
            told.append(Differing(f"{prefix} (steps not in all)", tuple(words)))
        else:
            told.append(one)
    return [one for one in told if one.name not in lone]


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(shorten(str(one), 60) for one in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        return "{}"
    return shorten(str(value), _LENGTH)
