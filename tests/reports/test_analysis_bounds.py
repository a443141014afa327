"""Bounds: which settings they are, what lies beyond them, and bounds that fit."""

from __future__ import annotations

import numpy as np
import pytest
from ruamel.yaml import YAML

from vlforge.ops.bind import bind
from vlforge.reports.analysis_bounds import Interval, beyond, bound_keys, interval_of, suggest
from vlforge.reports.analysis_columns import Column

VALUES = [0.0, 1.0, 2.0, 2.0, 3.0, 5.0, 8.0, 8.0, 13.0]


def op_of(name, **params):
    (bound,) = bind([{name: params}])
    return bound.op


def numbers_of(tmp_path, values):
    column = Column(tmp_path / "column")
    column.add(np.array(values, np.float64))
    return column.finish()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("text_length_filter", {"text_len": ("min_len", "max_len")}),
        ("image_size_filter", {"image_sizes": ("min_size", "max_size")}),
        (
            "image_shape_filter",
            {"image_width": ("min_width", "max_width"),
             "image_height": ("min_height", "max_height")},
        ),
        ("image_detail_filter", {"image_contrast": ("min_contrast", None),
                                 "image_sharpness": ("min_sharpness", None)}),
    ],
)  # fmt: skip
def test_the_settings_of_each_bound_are_found(name, keys):
    assert bound_keys(op_of(name)) == keys


def test_stand_ins_for_infinity_are_no_bounds():
    assert interval_of(op_of("text_length_filter", min_len=5), "text_len").pair == (5.0, None)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("closed_high", [False, True])
@pytest.mark.parametrize("closed_low", [False, True])
def test_what_is_beyond_is_what_the_filter_drops(tmp_path, closed_low, closed_high, is_reversed):
    op = op_of(
        "text_length_filter",
        min_len=2,
        max_len=8,
        min_closed_interval=closed_low,
        max_closed_interval=closed_high,
        reversed_range=is_reversed,
    )
    lost = beyond(numbers_of(tmp_path, VALUES), interval_of(op, "text_len"))
    assert sum(lost) == op.keep_all([VALUES]).count(False)


def test_an_open_interval_loses_nothing(tmp_path):
    assert beyond(numbers_of(tmp_path, VALUES), Interval()) == (0, 0)


def test_suggested_bounds_drop_the_share_that_is_told_and_load_as_a_recipe(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "text_len": rng.integers(5, 400, 1000).astype(float),
        "special_char_ratio": rng.beta(2, 9, 1000),
    }
    numbers = {}
    for stat, some in values.items():
        (tmp_path / stat).mkdir()
        numbers[stat] = numbers_of(tmp_path / stat, some)
    bounds = bind([{"text_length_filter": {"min_len": 3}}, {"special_characters_filter": None}])
    for rule in suggest(bounds, numbers):
        process = YAML(typ="safe").load(rule.snippet)["process"]
        for bound, one in zip(bind(process), rule.found, strict=True):
            kept = bound.op.keep_all([values[one.stat].tolist()])
            assert kept.count(False) / 1000 == pytest.approx(one.beyond)
            assert one.beyond <= 0.03


def test_quantiles_are_not_stretched_by_an_outlier_as_three_sigma_is(tmp_path):
    values = [*range(100, 400), 1_000_000]
    bounds = bind([{"text_length_filter": None}])
    quantiles, sigma = suggest(bounds, {"text_len": numbers_of(tmp_path, values)})
    assert quantiles.found[0].high < 400
    assert sigma.found[0].high > 100_000


def test_a_reversed_filter_is_given_no_bounds(tmp_path):
    bounds = bind([{"text_length_filter": {"reversed_range": True}}])
    numbers = {"text_len": numbers_of(tmp_path, VALUES)}
    assert [rule.found for rule in suggest(bounds, numbers)] == [(), ()]


def test_other_settings_of_a_filter_stay_in_the_snippet(tmp_path):
    bounds = bind([{"word_repetition_filter": {"rep_len": 3, "max_ratio": 0.9}}])
    rule = suggest(bounds, {"word_rep_ratio": numbers_of(tmp_path, [0.0, 0.1, 0.2])})[0]
    assert "rep_len: 3\n" in rule.snippet
    assert "0.9" not in rule.snippet
