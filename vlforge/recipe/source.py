"""Reads YAML and remembers where each key stands, so that errors can say file and line."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vlforge.types import RecipeError

Rules = Literal["1.2", "1.1"]
"""By 1.2 `5e-4` is a number and `off` a word; by 1.1, as Data-Juicer reads, `off` is false."""
_OLD_TRUTH = {"on": True, "yes": True, "off": False, "no": False}


class Source:
    """One YAML file and its lines."""

    def __init__(self, path: Path, data: Any, text: str, rules: Rules = "1.2"):
        self.path = path
        self.text = text
        self._tree = data
        self._rules = rules

    def plain(self) -> dict[str, Any]:
        """The content as plain dicts and lists."""
        plain: dict[str, Any] = _plain(self._tree, self._rules)
        return plain

    def where(self, *keys: str | int) -> str:
        """`file:line` of the key path, as deep as the file knows it."""
        node, line = self._tree, 1
        for key in keys:
            position = _position(node, key)
            if position is None:
                break
            line = position + 1
            node = node[key]
        return f"{self.path}:{line}"


class MadeSource(Source):
    """A recipe that was made in Python: errors name keys in place of lines."""

    def __init__(self, tree: Mapping[str, Any], text: str):
        super().__init__(Path("recipe"), tree, text)

    def where(self, *keys: str | int) -> str:
        """The dotted key path."""
        return ".".join(map(str, keys)) or "recipe"


def read_source(path: Path, rules: Rules = "1.2") -> Source:
    """Read a recipe; RecipeError with file and line when it is missing or no YAML mapping."""
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from None
    try:
        data = _reader(rules).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with `stages`, this is {_kind(data)}")
    return Source(path, data, text, rules)


def parse_value(text: str, rules: Rules = "1.2") -> Any:
    """The right side of `key=value`; plain text where it is no YAML."""
    from ruamel.yaml.error import YAMLError

    try:
        return _plain(_reader(rules).load(text), rules)
    except YAMLError:
        return text


def _reader(rules: Rules) -> Any:
    from ruamel.yaml import YAML

    reader = YAML(typ="rt")
    # Only so a quoted "off" can be told from a plain one.
    reader.preserve_quotes = rules == "1.1"
    return reader


def _kind(data: Any) -> str:
    return "empty" if data is None else f"a {type(data).__name__}"


def _position(node: Any, key: str | int) -> int | None:
    place = getattr(node, "lc", None)
    if place is None:
        return None
    try:
        row: int = (place.key(key) if isinstance(node, dict) else place.item(key))[0]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return row


def _plain(node: Any, rules: Rules) -> Any:
    if isinstance(node, dict):
        return {str(key): _plain(value, rules) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value, rules) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    if rules == "1.1" and type(node) is str and node.lower() in _OLD_TRUTH:
        return _OLD_TRUTH[node.lower()]
    if rules == "1.1" and isinstance(node, datetime.date):
        return node.isoformat()
    for base in (int, float, str):
        if isinstance(node, base):
            return base(node)
    return node
