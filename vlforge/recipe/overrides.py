"""`stages.align.lr=5e-4`: dotted overrides of a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlforge.recipe.source import parse_value
from vlforge.types import RecipeError


def parse_override(text: str) -> tuple[str, Any]:
    """Split `dotted.key=value`; the value by YAML 1.2 rules."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"override {text!r} is not of the form key=value, e.g. stages.align.lr=5e-4"
        )
    return key.strip(), parse_value(value)


def apply_override(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `dotted` in `tree`, making mappings on the way; list items go by number."""
    keys = dotted.split(".")
    node: Any = tree
    for depth, key in enumerate(keys[:-1]):
        node = _step(node, key, ".".join(keys[: depth + 1]))
    last = keys[-1]
    if isinstance(node, list):
        node[_index(node, last, dotted)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"override {dotted!r}: {'.'.join(keys[:-1])!r} is a value, not a mapping")


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Apply `key=value` texts in order."""
    for text in overrides:
        dotted, value = parse_override(text)
        apply_override(tree, dotted, value)


def _step(node: Any, key: str, dotted: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, dotted)]
    if not isinstance(node, dict):
        raise RecipeError(f"override {dotted!r}: {dotted.rpartition('.')[0]!r} is not a mapping")
    if node.get(key) is None:
        node[key] = {}
    return node[key]


def _index(node: list[Any], key: str, dotted: str) -> int:
    if key.isdigit() and int(key) < len(node):
        return int(key)
    raise RecipeError(f"override {dotted!r}: item {key!r} of a list of {len(node)}; count from 0")
