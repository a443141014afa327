"""The table of resolved keys that Data-Juicer prints at its start, read back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RULE = "│"


def is_printed_table(path: Path) -> bool:
    """Whether a file holds such a table; lines of a log may stand around it."""
    try:
        with path.open(encoding="utf-8") as file:
            return any(
                _cells(line)[:1] == ["key"] for _, line in zip(range(200), file, strict=False)
            )
    except (OSError, UnicodeDecodeError):
        return False


def read_printed_table(text: str) -> dict[str, Any]:
    """Key and value of each row; values are Python's, what is none stays text."""
    return {key: _value(value) for key, value in _rows(text)}


def _rows(text: str) -> Iterator[tuple[str, str]]:
    key, value = "", ""
    is_within = False
    for line in text.splitlines():
        cells = _cells(line)
        if len(cells) != 2:
            continue
        if cells[0] == "key" and not is_within:
            is_within = True
        elif is_within and cells[0]:
            if key:
                yield key, value
            key, value = cells[0], cells[1]
        elif is_within:
            value += f"\n{cells[1]}"
    if key:
        yield key, value


def _cells(line: str) -> list[str]:
    line = line.strip()
    if not (line.startswith(_RULE) and line.endswith(_RULE) and len(line) > 1):
        return []
    first, _, rest = line[1:-1].partition(_RULE)
    return [first.strip(), rest.strip()]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
