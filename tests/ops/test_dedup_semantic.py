"""Semantic duplicates: who stays, that clusters find what all pairs do, workers change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.engine.made import config, contents, lines, write_rows
from tests.ops.told_vectors import Models, chosen, said
from vlforge.engine.in_memory import run_in_memory
from vlforge.engine.local import run_process
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.types import RecipeError

OP = "semantic_deduplicator"


def angles(*degrees: float):
    turned = np.deg2rad(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], 1)


def made(count: int, groups: int, seed: int = 0):
    """Vectors of which those with one number modulo `groups` are nearly the same."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(groups, 16))
    return centres[np.arange(count) % groups] + draw.normal(size=(count, 16)) * 0.01


def test_the_first_the_farthest_or_the_nearest_to_the_centre_stays():
    rows = said(angles(0, 8, 1, 90))
    eps = 1 - np.cos(np.deg2rad(10))
    assert chosen(rows, OP, eps=eps, which_to_keep="first") == [0, 3]
    assert chosen(rows, OP, eps=eps) == [0, 3]
    # The centre of all lies near 25 degrees: of the first three, 8 degrees is nearest.
    assert chosen(rows, OP, eps=eps, which_to_keep="easy") == [1, 3]


def test_a_chain_is_cut_where_rows_differ_from_all_that_come_first():
    rows = said(angles(0, 9, 18, 27))
    eps = 1 - np.cos(np.deg2rad(10))
    assert chosen(rows, OP, eps=eps, which_to_keep="first") == [0]
    assert chosen(said(angles(0, 11, 22)), OP, eps=eps, which_to_keep="first") == [0, 1, 2]


def test_clusters_find_the_same_repeats_as_all_pairs():
    rows = said(made(400, 40))
    all_pairs = chosen(rows, OP, which_to_keep="first")
    assert all_pairs == list(range(40))
    assert chosen(rows, OP, which_to_keep="first", n_clusters=8) == all_pairs


def test_copies_of_one_row_are_not_compared_one_by_one():
    rows = said(np.repeat(made(2, 2), 30_000, axis=0))
    assert chosen(rows, OP, which_to_keep="first", n_clusters=1) == [0, 30_000]


def test_rows_without_what_is_compared_stay_and_a_bad_picture_costs_its_row(tmp_path):
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    named = [["a"], [], ["b"], [], ["gone"], ["c"], ["a", "c"]]
    rows = [{"text": "x", "images": [str(tmp_path / f"{n}.png") for n in row]} for row in named]
    items = [Item(f"u{at}", at, row) for at, row in enumerate(rows)]
    ran = run_in_memory(bind([{OP: {"which_to_keep": "first"}}]), items, Context(models=Models()))
    assert [item.line for item in ran.kept] == [0, 1, 3, 5, 6]
    assert {item.line: (d.op, d.reason, d.value) for item, d in ran.dropped} == {
        2: (OP, "repeats an earlier row", "u0"),
        4: (OP, "missing image", ran.dropped[0][1].value),
    }


def test_the_streamed_result_is_that_of_all_rows_at_once_whatever_the_workers(tmp_path):
    rows = said(made(900, 300))
    rows[5]["text"] = ""
    path = write_rows(tmp_path / "a.jsonl", rows)
    process = ({"text_length_filter": {"min_len": 0}}, {OP: {"by": "texts", "n_clusters": 5}})
    settings = config(path, *process)
    found = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        run_process(settings, out, models=Models(), workers=workers)
        found.append(contents(out))
    assert found[0] == found[1]
    kept = [row["id"] for row in lines(tmp_path / "out1" / "data.jsonl")]
    assert len(kept) == 301
    dropped = lines(tmp_path / "out1" / "dropped.jsonl")
    stays = {line["uid"] for line in lines(tmp_path / "out1" / "stats.jsonl")}
    assert {line["value"] for line in dropped} <= stays


def test_a_threshold_that_means_nothing_is_refused():
    with pytest.raises(RecipeError, match="eps is 2"):
        bind([{OP: {"eps": 2.0}}])
