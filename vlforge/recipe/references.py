"""`$stage/path` inside a stage's settings: the folder that another stage makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

REFERENCE = re.compile(r"^\$([A-Za-z_][A-Za-z0-9_]*)(?:/(.*))?$", re.DOTALL)


def split_reference(text: str) -> tuple[str, str] | None:
    """("align", "model") for "$align/model", None for any other text."""
    found = REFERENCE.match(text)
    return (found[1], found[2] or "") if found else None


def references(value: Any) -> Iterator[str]:
    """Names of the stages that `value` refers to, in order of appearance."""
    if isinstance(value, str):
        found = split_reference(value)
        if found:
            yield found[0]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def replace_strings(value: Any, change: Callable[[str], Any]) -> Any:
    """`value` with every text passed through `change`; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: replace_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_strings(item, change) for item in value]
    return value
