"""The page that newcomers see first leads to every other one."""

from __future__ import annotations

import re

from tests.docs.test_docs import PAGES
from tests.structure.tree import ROOT

INDEX = ROOT / "docs" / "index.md"


def linked() -> list[str]:
    """Pages that the index names, in its order."""
    return re.findall(r"\]\(([\w./-]+\.md)\)", INDEX.read_text(encoding="utf-8"))


def test_every_page_of_the_documentation_is_linked_from_the_index():
    there = {str(page.relative_to(INDEX.parent)) for page in PAGES if INDEX.parent in page.parents}
    assert there - {"index.md"} == set(linked())


def test_the_index_shows_the_loop_and_is_short():
    text = INDEX.read_text(encoding="utf-8")
    assert "](images/loop.svg)" in text
    before_the_map = text.partition("## All pages")[0]
    assert len(before_the_map.split()) < 600, "two minutes of reading"
