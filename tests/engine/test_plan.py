"""Cutting recipes into passes, and counting what passes through them."""

from __future__ import annotations

import math
import random

import pytest

from vlforge.engine.histogram import MOST_BINS, Histogram
from vlforge.engine.plan import PIXEL_BLOCK, TEXT_BLOCK, make_plan
from vlforge.ops.bind import bind

MODEL = {"image_text_agreement_filter": {"model": "m", "min_score": 0}}


def shape(*process):
    """Names per step of head and tail, and the selector, of each pass."""
    plan = make_plan(bind(process))
    return [
        (
            [[b.name for b in step.ops] for step in one.head],
            [[b.name for b in step.ops] for step in one.tail],
            one.barrier and one.barrier.name,
        )
        for one in plan.passes
    ]


def test_filters_run_cheapest_first_and_keep_their_order_among_equals():
    (only,) = shape(
        "image_detail_filter", MODEL, "image_size_filter", "words_num_filter",
        "image_shape_filter", "text_length_filter")  # fmt: skip
    assert only == (
        [["words_num_filter", "text_length_filter"], ["image_size_filter", "image_shape_filter"],
         ["image_detail_filter"]],
        [["image_text_agreement_filter"]],
        None,
    )  # fmt: skip


def test_mappers_and_dedups_stay_where_they_are():
    (only,) = shape(
        "image_shape_filter", "clean_email_mapper", "text_length_filter", "document_deduplicator",
        "image_captioning_mapper", "words_num_filter")  # fmt: skip
    assert only == (
        [["image_shape_filter"], ["clean_email_mapper"], ["text_length_filter"],
         ["document_deduplicator"]],
        [["image_captioning_mapper"], ["words_num_filter"]],
        None,
    )  # fmt: skip


def test_a_selector_ends_a_pass():
    assert shape("text_length_filter", "random_selector", "words_num_filter") == [
        ([["text_length_filter"]], [], "random_selector"),
        ([["words_num_filter"]], [], None),
    ]
    assert shape("random_selector") == [([], [], "random_selector"), ([], [], None)]


def test_blocks_depend_on_the_recipe_alone():
    assert make_plan(bind(["image_shape_filter"])).block_rows == TEXT_BLOCK
    assert make_plan(bind(["image_deduplicator"])).block_rows == PIXEL_BLOCK


@pytest.mark.parametrize("seed", range(6))
def test_a_histogram_does_not_depend_on_the_portions(seed):
    pick = random.Random(seed)
    scale = 10.0 ** pick.randint(-6, 9)
    values = [pick.gauss(0, 1) * scale for _ in range(500)]
    stays = [value > 0 for value in values]
    whole, parts, merged = Histogram(), Histogram(), Histogram()
    whole.add(values, stays)
    for at in range(0, 500, 7):
        parts.add(values[at : at + 7], stays[at : at + 7])
        parts = Histogram.restored(parts.state())
        part = Histogram()
        part.add(values[at : at + 7], stays[at : at + 7])
        merged.merge(part)
    assert merged.state()[:-1] == parts.state()[:-1]
    assert merged.counts == parts.counts
    mine, theirs = whole.summary((0, None)), parts.summary((0, None))
    assert mine["histogram"] == theirs["histogram"]
    assert mine["mean"] == pytest.approx(theirs["mean"])
    counts = mine["histogram"]["counts"]
    assert sum(counts) == 500
    assert MOST_BINS / 4 <= len(counts) <= MOST_BINS
    assert sum(mine["histogram"]["kept_counts"]) == sum(stays)
    edges = mine["histogram"]["edges"]
    assert edges[0] <= min(values)
    assert max(values) < edges[-1]


@pytest.mark.parametrize("values", [[3], [0, 0, 0], [0.25] * 9, [-7.5], [2**53], [5, math.nan]])
def test_a_histogram_of_one_value_has_one_bin(values):
    found = Histogram()
    found.add(values, [True] * len(values))
    summary = found.summary((None, None))
    assert len(summary["histogram"]["counts"]) == 1
    assert summary["min"] == summary["max"] == summary["mean"] == values[0]


def test_a_histogram_of_nothing_is_none():
    assert Histogram().summary((1, None))["histogram"] is None
