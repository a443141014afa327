"""The notebook of the Better Synth loop runs from its first cell to its last, in small."""

from __future__ import annotations

import re

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")

from tests.docs.test_docs import broken_links  # noqa: E402
from tests.kits.notebook import NOTEBOOK, execute, kinds  # noqa: E402
from tests.structure.tree import ROOT  # noqa: E402

SETTLED = re.compile(r'^SIZE = "tiny"', re.M)


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_small_and_names_no_machine(committed):
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert NOTEBOOK.stat().st_size < 300_000
    assert str(ROOT) not in text
    assert not re.search(r"/(tmp|home|root|work|Users)/", text)
    nbformat.validate(committed)


def test_it_is_committed_as_a_tiny_run_of_every_cell_in_order(committed):
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert SETTLED.search(code[0].source)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(out.output_type == "error" for cell in code for out in cell.outputs)


def test_it_says_why_between_what_it_does(committed):
    told = [cell for cell in committed.cells if cell.cell_type == "markdown"]
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert len(told) >= len(code) * 2 / 3
    assert "make notebook" in told[0].source


def test_its_links_lead_somewhere(committed):
    told = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    assert "](../docs/" in told
    assert not broken_links(told, NOTEBOOK.parent)


@pytest.mark.slow
def test_it_runs_and_gives_what_it_was_committed_with(committed, tmp_path):
    done = execute(NOTEBOOK, tmp_path)
    assert [cell.source for cell in done.cells] == [cell.source for cell in committed.cells]
    for now, then in zip(done.cells, committed.cells, strict=True):
        assert kinds(now) == kinds(then), now.source
