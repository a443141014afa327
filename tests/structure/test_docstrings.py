"""Everything public says what one gets."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.structure.tree import by_folder, faults, parsed, python_files

# Methods whose meaning is given once: by our operators' page, or by torch and transformers.
KNOWN_METHODS = {
    "keep", "key", "keys", "measure", "apply", "rank", "forward",
    "get_input_embeddings", "set_input_embeddings", "get_output_embeddings",
    "set_output_embeddings", "prepare_inputs_for_generation",
}  # fmt: skip
Defined = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def protocol_methods(trees: list[ast.Module]) -> set[str]:
    """Methods that a `Protocol` documents, so that those who follow it need not."""
    protocols = [
        node
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
    ]
    return {
        child.name
        for node in protocols
        for child in node.body
        if isinstance(child, ast.FunctionDef) and ast.get_docstring(child)
    }


@cache
def _said_once() -> frozenset[str]:
    return frozenset(KNOWN_METHODS | protocol_methods([parsed(p) for p in python_files("vlforge")]))


def undocumented(tree: ast.Module) -> list[str]:
    """Public names without a docstring: the module, its classes, functions and methods."""
    missing = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if not isinstance(node, Defined) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(node.name)
        if isinstance(node, ast.ClassDef):
            missing += [f"{node.name}.{name}" for name in _bare_methods(node)]
    return missing


def _bare_methods(node: ast.ClassDef) -> list[str]:
    return [
        child.name
        for child in node.body
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        and not child.name.startswith("_")
        and child.name not in _said_once()
        and not ast.get_docstring(child)
    ]


@pytest.mark.parametrize("paths", by_folder(python_files("vlforge", "benchmarks")))
def test_public_names_have_docstrings(paths):
    has_code = [path for path in paths if path.read_text(encoding="utf-8").strip()]
    assert not faults(has_code, lambda path: undocumented(parsed(path)))


def test_a_missing_docstring_is_seen():
    source = '"""M."""\nclass A:\n  """A."""\n  def f(self): ...\n  def _g(self): ...\ndef h(): ...'
    assert undocumented(ast.parse(source)) == ["A.f", "h"]


def test_a_protocol_speaks_for_those_who_follow_it():
    source = 'class P(Protocol):\n  def f(self):\n    """F."""\n  def g(self): ...\n'
    assert protocol_methods([ast.parse(source)]) == {"f"}
