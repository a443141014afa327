"""Judging rows by a condition on their fields."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Filter
from vlforge.ops.batch import Batch, Item
from vlforge.types import Drop, RecipeError

Look = Callable[[str], Any]
"""What a name in the condition stands for."""
Part = Callable[[Look], Any]
"""A piece of a condition, ready to be worked out."""

STATS_FIELD = "__dj__stats__"
"""The name under which a condition finds statistics."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, several: value in several,
    ast.NotIn: lambda value, several: value not in several,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_SEVERAL: dict[type[ast.expr], Callable[[Any], Any]] = {
    ast.List: list,
    ast.Tuple: tuple,
    ast.Set: set,
}


@dataclass(frozen=True, kw_only=True)
class GeneralFieldFilter(Filter):
    """Keep rows that meet a condition such as `10 < num <= 30 and meta.lang in ['en', 'de']`.

    Names are fields of the row, with a point for fields inside;
    `__dj__stats__.name` is a statistic measured before, `__dj__meta__.name` a
    tag. There are `and`, `or`, `not`, `< <= > >= == !=` (also in chains), `in`,
    `not in`, numbers, text, lists and parentheses, and nothing else: a condition
    can neither call nor reach anything. A comparison with a missing field is
    false, `not in` true. A row whose fields cannot be compared (a number with a
    text) is dropped with the reason. Without `filter_condition` every row stays.
    As in Data-Juicer `reversed_range` changes nothing: write `not (...)`.
    """

    filter_condition: str = ""

    condition_stat: ClassVar = "general_field_filter_condition"

    def __post_init__(self) -> None:
        if self.filter_condition.strip():
            parsed_condition(self.filter_condition)

    @property
    def stats(self) -> tuple[str, ...]:  # type: ignore[override]
        """Whether the row meets the condition, where there is one."""
        return (self.condition_stat,) if self.filter_condition.strip() else ()

    @property
    def reads_stats(self) -> bool:
        """Whether the condition names a statistic."""
        return STATS_FIELD in self.filter_condition

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        if not self.stats:
            return ([True] * len(batch.items),)
        meets = parsed_condition(self.filter_condition)
        return ([_judged(meets, item) for item in batch.items],)

    def keep(self, *values: Any) -> bool:
        return bool(values[0])

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Quotes the condition."""
        condition = self.filter_condition.strip()
        return Drop(name, "condition not met", self.condition_stat, values[0], condition)


def _judged(meets: Part, item: Item) -> bool | Drop:
    def look(name: str) -> Any:
        if name == STATS_FIELD:
            return {**item.given, **item.stats}
        return item.row.get(name)

    try:
        return bool(meets(look))
    except TypeError as error:
        return Drop("", "condition cannot be worked out", None, str(error), None)


@functools.cache
def parsed_condition(text: str) -> Part:
    """The condition, ready to be worked out row by row.

    Raises:
        RecipeError: it cannot be read, or holds something that is not allowed.
    """
    try:
        return _part(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        found = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RecipeError(
            f"general_field_filter.filter_condition {text!r} is no condition: {found}"
        ) from None


def _part(node: ast.expr) -> Part:
    if isinstance(node, ast.Constant):
        value = node.value
        return lambda look: value
    if isinstance(node, ast.Name):
        name = node.id
        return lambda look: look(name)
    if isinstance(node, ast.Attribute):
        return _inner(_part(node.value), node.attr)
    if isinstance(node, ast.BoolOp):
        return _joined(isinstance(node.op, ast.And), [_part(value) for value in node.values])
    if isinstance(node, ast.Compare):
        return _compared(node)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        sign, operand = _SIGNS[type(node.op)], _part(node.operand)
        return lambda look: sign(operand(look))
    if type(node) in _SEVERAL:
        make, parts = _SEVERAL[type(node)], [_part(e) for e in node.elts]  # type: ignore[attr-defined]
        return lambda look: make(part(look) for part in parts)
    raise ValueError(f"`{ast.unparse(node)}` is not allowed in a condition")


def _inner(outer: Part, name: str) -> Part:
    def inner(look: Look) -> Any:
        value = outer(look)
        return value.get(name) if isinstance(value, dict) else None

    return inner


def _joined(is_and: bool, parts: list[Part]) -> Part:
    if is_and:
        return lambda look: all(part(look) for part in parts)
    return lambda look: any(part(look) for part in parts)


def _compared(node: ast.Compare) -> Part:
    for op in node.ops:
        if type(op) not in _COMPARISONS:
            raise ValueError("`is` is not allowed in a condition: compare with ==")
    compare = [(_COMPARISONS[type(op)], isinstance(op, ast.NotIn)) for op in node.ops]
    parts = [_part(value) for value in (node.left, *node.comparators)]

    def compared(look: Look) -> bool:
        left, *rights = [part(look) for part in parts]
        for (holds, is_not_in), right in zip(compare, rights, strict=True):
            if left is None or right is None:
                return is_not_in
            if not holds(left, right):
                return False
            left = right
        return True

    return compared
