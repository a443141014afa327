"""Many values as lines at once are what they are one by one."""

from __future__ import annotations

import pytest

from vlforge.data.json_lines import decode, encode, encode_lines
from vlforge.data.roots import place_all

VALUES = [
    {"text": "plain", "n": 1.5},
    {"text": "\u2028 and \u2029 and \x85 end lines for some readers"},
    {"text": "\ud800 is half a character"},
    {"text": "日本", "bytes": b"\xff\x00"},
    [1, None, {"a": float("1e300")}],
]


@pytest.mark.parametrize("values", [[], VALUES[:2], VALUES, VALUES[3:]])
def test_lines_at_once_are_the_lines_one_by_one(values):
    lines = encode_lines(values)
    assert lines == b"".join(encode(value) + b"\n" for value in values)
    assert [decode(line) for line in lines.splitlines()] == [decode(encode(v)) for v in values]


@pytest.mark.parametrize(
    ("root", "path", "placed"),
    [
        ("/data", "a/b.png", "/data/a/b.png"),
        ("/data/", "b.png", "/data/b.png"),
        ("/data", "/other/b.png", "/other/b.png"),
        ("/data", "../b.png", "/b.png"),
        ("/data", ".hidden/b.png", "/data/.hidden/b.png"),
        ("/data", "C:\\b.png", "C:\\b.png"),
        ("/data", "a:b.png", "/data/a:b.png"),
        ("", "b.png", "b.png"),
    ],
)
def test_a_relative_path_starts_at_the_root(root, path, placed):
    assert place_all(root, [path]) == [placed]
