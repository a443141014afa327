"""Rows are judged by their fields and statistics, and chosen by how these compare."""

from __future__ import annotations

import pytest

from vlforge.engine.in_memory import Ran, run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.types import RecipeError

ROWS = [
    {"id": "a", "src": "web", "n": 3, "tags": ["x"], "meta": {"lang": "en", "s": "12"}},
    {"id": "b", "src": "book", "n": 0, "tags": ["x", "y"], "meta": {"lang": "zh", "s": "9"}},
    {"id": "c", "src": "web", "n": 7, "tags": [], "meta": {"lang": None, "s": "none"}},
    {"id": "d", "src": "wiki", "n": 3, "tags": ["z"]},
]
SIZES = [[1.0, 2.0], [4.0], [], [2.0, 3.0]]


def ran(name: str, params: dict, rows=ROWS, text_filter: bool = False) -> Ran:
    items = [Item(row["id"], at, row, {}, {"sizes": SIZES[at]}) for at, row in enumerate(rows)]
    bounds = bind([*([{"text_length_filter": {"text_key": "src", "min_len": 0}}] * text_filter),
                   {name: params}])  # fmt: skip
    return run_in_memory(bounds, items, Context())


def kept(name: str, rows=ROWS, **params) -> str:
    return "".join(item.row["id"] for item in ran(name, params, rows).kept)


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, "abcd"),
        ({"field_key": "src"}, "abcd"),
        ({"target_value": ["web"]}, "abcd"),
        ({"field_key": "src", "target_value": ["web"]}, "ac"),
        ({"field_key": "src", "target_value": ["web"], "reversed_range": True}, "bd"),
        ({"field_key": "tags", "target_value": ["x", "y"]}, "abc"),
        ({"field_key": "meta.lang", "target_value": ["en", None]}, "acd"),
        ({"field_key": "__dj__stats__.sizes", "target_value": [1, 2, 3]}, "acd"),
    ],
)
def test_a_field_has_one_of_the_values(params, ids):
    assert kept("specified_field_filter", **params) == ids


def test_a_filter_without_a_field_measures_nothing():
    for name in ("specified_field_filter", "specified_numeric_field_filter", "suffix_filter"):
        assert all(item.stats == {} for item in ran(name, {}).kept)


def test_zero_is_a_number_unless_as_in_data_juicer():
    assert kept("specified_numeric_field_filter", field_key="n", max_value=3) == "abd"
    as_theirs = {"field_key": "n", "max_value": 3, "compat": "data_juicer"}
    assert kept("specified_numeric_field_filter", **as_theirs) == "ad"


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, "abcd"),
        ({"suffixes": None}, "abcd"),
        ({"suffixes": ".txt"}, "a"),
        ({"suffixes": ["txt", ".md"]}, "b"),
        ({"suffixes": [".txt"], "reversed_range": True}, "bcd"),
    ],
)
def test_suffixes_are_compared_letter_by_letter(params, ids):
    suffixes = [".txt", ".md", ".TXT", None]
    rows = [
        {"id": i, **({"__dj__suffix__": s} if s else {})}
        for i, s in zip("abcd", suffixes, strict=True)
    ]
    assert kept("suffix_filter", rows, **params) == ids


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ("", "abcd"),
        ("n > 2 and src == 'web'", "ac"),
        ("0 <= n < 7", "abd"),
        ("src in ['web', 'wiki'] or not tags", "acd"),
        ("meta.lang == 'en'", "a"),
        ("meta.lang != 'en'", "b"),
        ("meta.lang not in ('en',)", "bcd"),
        ("nowhere == 1", ""),
        ("not (nowhere == 1)", "abcd"),
        ("-n < -3", "c"),
        ("'y' in tags", "b"),
        ("__dj__stats__.text_len == 3", "ac"),
        ("__dj__stats__.sizes", "abd"),
    ],
)
def test_conditions_are_worked_out_per_row(condition, ids):
    out = ran("general_field_filter", {"filter_condition": condition}, text_filter=True)
    assert "".join(item.row["id"] for item in out.kept) == ids


def test_a_row_that_cannot_be_compared_costs_that_row():
    out = ran("general_field_filter", {"filter_condition": "n > 2 or src > n"})
    assert [item.row["id"] for item in out.kept] == ["a", "c", "d"]
    ((item, drop),) = out.dropped
    assert (item.row["id"], drop.reason) == ("b", "condition cannot be worked out")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("n >", "is no condition"),
        ("n + 1 > 2", r"`n \+ 1` is not allowed"),
        ("len(src) > 1", r"`len\(src\)` is not allowed"),
        ("meta['lang'] == 'en'", "is not allowed"),
        ("n is None", "compare with =="),
        ("__import__('os')", "is not allowed"),
        ("[i for i in tags]", "is not allowed"),
        ("not " * 20_000 + "n", "is no condition"),
    ],
)
def test_nothing_but_comparisons_is_a_condition(condition, said):
    with pytest.raises(RecipeError, match=said):
        bind([{"general_field_filter": {"filter_condition": condition}}])


def test_a_condition_reaches_nothing_of_an_object():
    assert kept("general_field_filter", filter_condition="src.__class__") == ""
    assert kept("general_field_filter", filter_condition="src.upper") == ""


def test_conditions_on_statistics_wait_for_the_filter_that_measures():
    from vlforge.engine.plan import make_plan

    condition = {"general_field_filter": {"filter_condition": "__dj__stats__.image_width > 9"}}
    plan = make_plan(bind(["image_shape_filter", condition, "text_length_filter"]))
    steps = [[bound.name for bound in step.ops] for step in plan.passes[0].steps]
    assert steps == [["image_shape_filter"], ["general_field_filter"], ["text_length_filter"]]


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, "abcd"),
        ({"field_key": "n"}, "abcd"),
        ({"field_key": "n", "top_ratio": 0.0}, "abcd"),
        ({"field_key": "n", "topk": 3}, "cad"),
        ({"field_key": "n", "topk": 3, "top_ratio": 0.5}, "ca"),
        ({"field_key": "n", "topk": 2, "reverse": False}, "ba"),
        ({"field_key": "src", "topk": 2}, "da"),
        ({"field_key": "meta.s", "topk": 3}, "abc"),
        ({"field_key": "__dj__stats__.sizes", "topk": 3}, "bda"),
    ],
)
def test_the_highest_values_come_first(params, ids):
    assert kept("topk_specified_field_selector", **params) == ids


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({"field_key": "n"}, "abcd"),
        ({"field_key": "n", "lower_rank": 1}, "abcd"),
        ({"field_key": "n", "lower_rank": 1, "upper_rank": 3}, "ad"),
        ({"field_key": "n", "lower_percentile": 0.5, "upper_percentile": 1}, "ca"),
        ({"field_key": "n", "lower_percentile": 0, "lower_rank": 3, "upper_rank": 9}, "c"),
        ({"field_key": "n", "lower_rank": 9, "upper_rank": 2}, ""),
        ({"field_key": "meta.s", "lower_percentile": 0.5, "upper_rank": 4}, "ab"),
    ],
)
def test_a_range_of_ranks_is_kept(params, ids):
    assert kept("range_specified_field_selector", **params) == ids


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        ({}, "abcd"),
        ({"field_key": "src", "topk": 1}, "ac"),
        ({"field_key": "src", "topk": 1, "reverse": False}, "b"),
        ({"field_key": "n", "top_ratio": 0.7}, "adb"),
        ({"field_key": "tags", "topk": 1}, "a"),
    ],
)
def test_rows_of_frequent_values_are_kept(params, ids):
    assert kept("frequency_specified_field_selector", **params) == ids


def test_rows_with_a_tag_are_kept():
    assert kept("tags_specified_field_selector", field_key="src", target_tags=["web"]) == "ac"
    assert kept("tags_specified_field_selector", field_key="n", target_tags=[3, 0]) == "abd"
    assert kept("tags_specified_field_selector", field_key="src", target_tags=[]) == ""
    one = {"field_key": "src", "target_tags": []}
    assert kept("tags_specified_field_selector", ROWS[:1], **one) == "a"


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("topk_specified_field_selector", {"field_key": "nn", "topk": 1}, "'nn', a field without"),
        ("frequency_specified_field_selector", {"field_key": "x", "topk": 1}, "a field without"),
        ("tags_specified_field_selector", {"field_key": "x", "target_tags": [1]}, "field without"),
        ("tags_specified_field_selector", {}, "needs target_tags"),
        ("topk_specified_field_selector", {"topk": 0}, "topk is 0"),
        ("range_specified_field_selector", {"upper_percentile": 80}, "not a share"),
        ("range_specified_field_selector", {"lower_rank": -1}, "lower_rank is -1"),
    ],
)  # fmt: skip
def test_mistakes_of_selectors_are_named(name, params, said):
    with pytest.raises(RecipeError, match=said):
        kept(name, **params)


def test_drawing_all_or_too_many_rows_keeps_each_once_unless_as_in_data_juicer():
    assert kept("random_selector", select_num=4) == "abcd"
    assert kept("random_selector", select_num=6) == "abcd"
    assert kept("random_selector", select_ratio=0.1) == ""
    theirs = {"compat": "data_juicer"}
    assert kept("random_selector", select_ratio=0.1, **theirs) == "abcd"
    assert kept("random_selector", select_num=6, **theirs) == "dcbadc"
