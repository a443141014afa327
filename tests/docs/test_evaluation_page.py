"""The page of evaluation names every benchmark with its protocols and prompts."""

from __future__ import annotations

import re

import pytest

from tests.structure.tree import ROOT
from vlforge.evaluation.benchmarks import benchmark
from vlforge.evaluation.config import benchmark_names

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def cells_of(name: str) -> list[list[str]]:
    """The code words of each cell of the benchmark's row."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    return [re.findall(r"`([^`]+)`", cell) for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("name", benchmark_names())
def test_a_benchmarks_row_has_its_protocols_and_prompts(name):
    _, protocols, prompts, _ = cells_of(name)
    module = benchmark(name)
    assert protocols == list(module.PROTOCOLS)
    known = getattr(module, "PROMPTS", getattr(module, "_LANGUAGES", ()))
    assert prompts == [prompt for prompt in known if prompt != "auto"]


@pytest.mark.parametrize("name", benchmark_names())
def test_every_shape_of_export_is_named(name):
    part = PAGE.partition("## Files for others")[2]
    for shape in getattr(benchmark(name), "EXPORTS", {}):
        assert f"`{shape}`" in part
