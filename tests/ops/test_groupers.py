"""Rows join to batch rows, and these come apart again."""

from __future__ import annotations

import json

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind

ROWS = [
    {"text": "a", "n": 1, "tags": ["x", "y"]},
    {"text": "b", "n": 1.0, "tags": ["x"]},
    {"text": "a", "n": "1", "tags": []},
    {"text": "a", "n": True},
]


def joined(process, rows=ROWS):
    items = [Item(str(at), at, row, {}, {"len": at // 2}) for at, row in enumerate(rows)]
    out = run_in_memory(bind(process), items, Context())
    return [item.row for item in out.kept], [drop for _, drop in out.dropped]


@pytest.mark.parametrize(
    ("params", "groups"),
    [
        ({}, ["aaa", "b"]),
        ({"group_by_keys": ["n"]}, ["ab", "a", "a"]),
        ({"group_by_keys": ["tags.0"]}, ["ab", "aa"]),
        ({"group_by_keys": ["text", "tags"]}, ["a", "b", "a", "a"]),
        ({"group_by_keys": ["nowhere"]}, ["abaa"]),
        ({"group_by_keys": ["__dj__stats__.len"]}, ["ab", "aa"]),
    ],
)
def test_rows_that_agree_join(params, groups):
    rows, _ = joined([{"key_value_grouper": params}])
    assert ["".join(row["text"]) for row in rows] == groups


def test_all_rows_join_to_one_and_come_apart_again():
    rows, _ = joined(["naive_grouper"])
    assert len(rows) == 1
    assert rows[0]["n"] == [1, 1.0, "1", True]
    apart, _ = joined(["naive_grouper", "naive_reverse_grouper"])
    assert apart == [{"tags": None, **row} for row in ROWS]
    assert joined(["naive_grouper"], [])[0] == []


def test_what_is_no_batch_row_is_dropped_with_the_reason():
    bad = [{"text": "abc"}, {"text": ["a"], "n": [1, 2]}, {"text": []}, {"text": ["a"]}]
    rows, drops = joined(["naive_reverse_grouper"], bad)
    assert rows == [{"text": "a"}]
    assert [drop.reason for drop in drops] == [
        "no batch row",
        "lists of different lengths",
        "empty batch row",
    ]


def test_notes_on_batch_rows_go_to_their_file(tmp_path):
    path = tmp_path / "new" / "meta.jsonl"
    rows = [{"text": ["a", "b"], "__dj__batch_meta__": {"k": "é"}}, {"text": ["c"]}]
    apart, _ = joined([{"naive_reverse_grouper": {"batch_meta_export_path": str(path)}}], rows)
    assert apart == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [{"k": "é"}]
