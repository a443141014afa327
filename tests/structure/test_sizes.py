"""Files, functions and nesting stay small enough to read in one go."""

from __future__ import annotations

import ast
import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.tree import by_folder, faults, parsed, python_files, shown

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_NESTING = 3
ALLOWED = Path(__file__).with_name("allowed_sizes.txt")
BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Match)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def still_allowed(text: str, today: datetime.date) -> set[str]:
    """Names on the allow-list whose date has not passed."""
    allowed = set()
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            date, name, _why = line.split(maxsplit=2)
            if datetime.date.fromisoformat(date) >= today:
                allowed.add(name)
    return allowed


def functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name inside the file."""
    for node in ast.iter_child_nodes(tree):
        name = outer
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{outer}.{node.name}" if outer else node.name
        if isinstance(node, Function):
            yield name, node
        yield from functions(node, name)


def nesting(body: list[ast.stmt], depth: int = 0) -> int:
    """How many blocks stand inside one another; `elif` and `except` go no deeper."""
    deepest = depth
    for node in body:
        if not isinstance(node, BLOCKS):
            continue
        inner = [getattr(node, part, []) for part in ("body", "finalbody")]
        inner += [part.body for part in getattr(node, "handlers", [])]
        inner += [part.body for part in getattr(node, "cases", [])]
        deepest = max([deepest, *(nesting(block, depth + 1) for block in inner)])
        orelse = getattr(node, "orelse", [])
        is_elif = isinstance(node, ast.If) and len(orelse) == 1 and isinstance(orelse[0], ast.If)
        deepest = max(deepest, nesting(orelse, depth if is_elif else depth + 1) if orelse else 0)
    return deepest


def too_large(path: Path) -> Iterator[tuple[str, str]]:
    """(name for the allow-list, what is wrong) of everything too large in one file."""
    name = shown(path)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > MAX_FILE_LINES:
        yield name, f"{name} has {lines} lines"
    if not name.startswith("tests/"):
        for inner, node in functions(parsed(path)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{name}::{inner}", f"{name}:{node.lineno} {inner} has {length} lines"
            depth = nesting(node.body)
            if depth > MAX_NESTING:
                yield f"{name}::{inner}", f"{name}:{node.lineno} {inner} nests {depth} deep"


@pytest.mark.parametrize("paths", by_folder(python_files("vlforge", "tests", "benchmarks")))
def test_nothing_is_too_large_to_read(paths):
    allowed = still_allowed(ALLOWED.read_text(encoding="utf-8"), datetime.date.today())
    assert not faults(paths, lambda p: [what for name, what in too_large(p) if name not in allowed])


def test_an_entry_of_the_allow_list_ends_with_its_date():
    text = "# head\n2027-01-31 vlforge/a.py::f  moves soon\n"
    assert still_allowed(text, datetime.date(2027, 1, 31)) == {"vlforge/a.py::f"}
    assert still_allowed(text, datetime.date(2027, 2, 1)) == set()


@pytest.mark.parametrize(
    ("source", "depth"),
    [
        ("x = 1", 0),
        ("if a:\n  x = 1\nelif b:\n  x = 2\nelse:\n  x = 3", 1),
        ("for a in b:\n  if a:\n    with c:\n      x = 1", 3),
        ("try:\n  x = 1\nexcept E:\n  for a in b:\n    x = 2", 2),
        ("for a in b:\n  pass\nelse:\n  while c:\n    x = 1", 2),
    ],
)
def test_nesting_counts_blocks_inside_blocks(source, depth):
    assert nesting(ast.parse(source).body) == depth


def test_a_long_function_is_seen(tmp_path, monkeypatch):
    path = tmp_path / "long.py"
    path.write_text("def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES)
    monkeypatch.setattr("tests.structure.test_sizes.shown", lambda p: p.name)
    assert [name for name, _ in too_large(path)] == ["long.py::f"]
