"""What is taken without asking pydantic is what pydantic would have made of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from vlforge.engine.config import ProcessConfig
from vlforge.ops.exact import exactly
from vlforge.ops.index import find, places
from vlforge.types import RecipeError, VLForgeError

VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -3, 2.5, float("inf"), "", "any", "all", "1.5MB", [], [1], [1, "a"],
    ["a", "b"], [[1, 2.0]], (), ("a",), (1, 2), {}, {"a": 1}, {"a": "b"}, {"a": [1]}, {1: 2},
    {"path": "x"}, {"configs": [{"path": "a", "weight": 2}]},
    {"configs": [{"path": "a", "share": 2}]},
)  # fmt: skip


@dataclass(frozen=True)
class Inner:
    """A table within."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One field of each kind of annotation."""

    whole: int = 0
    share: float = 0.0
    name: str = ""
    switch: bool = False
    free: Any = None
    perhaps: float | None = None
    either: int | str = 0
    number: int | float = 0
    mode: Literal["any", "all", 1] = "any"
    many: tuple[float, ...] = ()
    pair: tuple[int, str] = (0, "")
    listed: list[str] = field(default_factory=list)
    table: dict[str, float | list[int]] = field(default_factory=dict)
    inner: Inner | None = None
    inners: tuple[Inner, ...] = ()


def outcome(cls: type[Any], values: dict[str, Any]) -> Any:
    try:
        return TypeAdapter(cls).validate_python(values)
    except (ValidationError, VLForgeError):
        return None


@pytest.mark.parametrize("cls", [Sample, ProcessConfig])
def test_what_fits_is_what_pydantic_makes(cls):
    taken = 0
    for one, value in itertools.product(fields(cls), VALUES):
        found = exactly(cls, {one.name: value})
        if found is None:
            continue
        taken += 1
        wanted = outcome(cls, {one.name: value})
        assert found == wanted, (one.name, value)
        assert repr(found) == repr(wanted), "not of the same types"
    assert taken > 2 * len(fields(cls))


@pytest.mark.parametrize("name", sorted(places()))
def test_operators_are_made_as_pydantic_makes_them(name):
    cls = find(name)
    for one, value in itertools.product(fields(cls), VALUES[:12]):
        try:
            found = exactly(cls, {one.name: value})
        except RecipeError:
            continue
        if found is not None:
            assert repr(found) == repr(outcome(cls, {one.name: value}))


@pytest.mark.parametrize(
    "values",
    [{"whole": "1"}, {"whole": 1.0}, {"whole": True}, {"share": True}, {"share": "1"}, {"name": 1},
     {"switch": 1}, {"mode": True}, {"pair": [1]}, {"unknown": 1}, {"inner": {}},
     {"inner": {"path": 1}}, {"inners": [{"path": "a"}, {"way": "a"}]}],
)  # fmt: skip
def test_what_needs_converting_or_refusing_is_left_to_pydantic(values):
    assert exactly(Sample, values) is None
