"""The tree names no machine, no package index's host, and carries no unfinished notes."""

from __future__ import annotations

import re

import pytest

from tests.structure.tree import by_folder, faults, source_files

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".html", ".css", ".js", ".txt", ".json", ""}
MAX_BYTES = 400_000
# Written in pieces: this file is read by its own test.
FORBIDDEN = {
    "a machine's path": r"/(?:wor" + r"k|hom" + r"e|Use" + r"rs|roo" + r"t)/\w|/tm" + r"p/\w",
    "an index's host": r"pyp" + r"i\.org|pythonhosted" + r"\.org|download\.pytor" + r"ch\.org",
    "an unfinished note": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
}


def findings(text: str) -> list[str]:
    """`line N: what (match)` for everything forbidden in a text."""
    return [
        f"line {number}: {what} ({match.group()})"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in FORBIDDEN.items()
        if (match := re.search(pattern, line))
    ]


@pytest.mark.parametrize(
    "paths",
    by_folder(p for p in source_files() if p.suffix in TEXT and p.stat().st_size < MAX_BYTES),
)
def test_no_forbidden_words(paths):
    assert not faults(paths, lambda p: findings(p.read_text(encoding="utf-8", errors="ignore")))


@pytest.mark.parametrize(
    "line",
    ["cd /wor" + "k/main", "open('/tm" + "p/x')", "--index-url https://download.pytor" + "ch.org/x",
     "# TO" + "DO later"],
)  # fmt: skip
def test_forbidden_words_are_seen(line):
    assert findings(line)
