"""Old commands and ours stand on the page of their system as `vlforge list commands` has them."""

from __future__ import annotations

import re

import pytest

from tests.docs.test_docs import PAGES
from tests.structure.tree import shown
from vlforge.cli import main
from vlforge.cli.familiar.every import SYSTEMS
from vlforge.cli.pages import part_of

TABLES = [page for page in PAGES if part_of(page.read_text(encoding="utf-8"), "commands")]
"""Pages that have the part."""


def table_of(system: str, folder) -> str:
    """What the command writes into a page, for one system or several with commas."""
    page = folder / f"{system}.md"
    page.write_text("<!-- commands -->\n<!-- end commands -->\n", encoding="utf-8")
    assert main(["list", "commands", "--system", system, "--into", str(page)]) == 0
    return part_of(page.read_text(encoding="utf-8"), "commands")


@pytest.mark.parametrize("page", TABLES, ids=shown)
def test_the_commands_of_a_page_are_fresh(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    named = re.search(r"<!-- commands[^>]*--system ([\w,]+)", text)
    written = [table_of(systems, tmp_path) for systems in ([named[1]] if named else SYSTEMS)]
    part = part_of(text, "commands")
    assert part in written, "run `vlforge list commands --system X --into PAGE`"


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_row_is_a_command_of_theirs_and_one_of_ours(system, tmp_path):
    head, rule, *rows = table_of(system, tmp_path).splitlines()
    assert (head, rule) == ("| you type | here |", "|---|---|")
    assert rows
    for row in rows:
        assert row.startswith("| `")
        assert "| `vlforge " in row


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_its_table_on_a_page(system, tmp_path):
    rows = set(table_of(system, tmp_path).splitlines())
    pages = [part_of(page.read_text(encoding="utf-8"), "commands") for page in TABLES]
    assert any(rows <= set(part.splitlines()) for part in pages)
