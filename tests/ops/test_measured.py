"""Filters that keep every row and note what they would have said."""

from __future__ import annotations

import json
import pickle

import pytest

from tests.engine.made import write_picture
from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.measured import FILES, HASHES, PICTURES, TEXT, TOKENS, VERDICT, measuring
from vlforge.types import RecipeError

TEXTS = ["a red bus", "no", "!!!! ????", "", "一只猫 on a mat"]
FILTERS = {
    "text_length_filter": {"min_len": 3, "max_len": 10},
    "alphanumeric_filter": {"min_ratio": 0.5, "reversed_range": True},
    "text_pattern_filter": {"patterns": ["bus"]},
    "specified_field_filter": {"field_key": "kind", "target_value": ["good"]},
}


def rows_of(texts):
    return [
        {"id": n, "text": text, "kind": "good" if n % 2 else "bad"} for n, text in enumerate(texts)
    ]


def run(rows, *process):
    """What stays and what goes, and the statistics of what stays."""
    items = [Item(f"u{n}", n, json.loads(json.dumps(row))) for n, row in enumerate(rows)]
    return run_in_memory(bind(list(process)), items, Context())


@pytest.mark.parametrize("name", FILTERS)
def test_every_row_stays_and_the_verdict_is_the_filters_own(name):
    plain = run(rows_of(TEXTS), {name: FILTERS[name]})
    noted = run(rows_of(TEXTS), {measuring(name): {**FILTERS[name], "place": 7}})
    assert len(noted.kept) == len(TEXTS)
    verdicts = {item.uid: item.stats[f"{VERDICT}7"] for item in noted.kept}
    assert {uid for uid, said in verdicts.items() if said is True} == {i.uid for i in plain.kept}
    assert 0 < len(plain.kept) < len(TEXTS)
    for item, drop in plain.dropped:
        said = verdicts[item.uid]
        assert (said["reason"], said["stat"], said["value"], said["bound"]) == (
            drop.reason, drop.stat, drop.value, drop.bound,
        )  # fmt: skip


def test_a_missing_picture_costs_no_other_statistic(tmp_path):
    good, gone = str(write_picture(tmp_path / "a.png")), str(tmp_path / "gone.png")
    rows = [{"text": "one", "images": [good]}, {"text": "two", "images": [good, gone]}]
    shape = {measuring("image_shape_filter"): {"place": 1}}
    kept = run(rows, {measuring("text_length_filter"): {"place": 0}}, shape).kept
    assert [item.stats["text_len"] for item in kept] == [3, 3]
    assert [item.stats["image_width"] for item in kept] == [[64], []]
    assert kept[0].stats[f"{VERDICT}1"] is True
    assert kept[1].stats[f"{VERDICT}1"]["reason"] == "missing image"
    assert kept[1].stats[f"{VERDICT}1"]["stat"] is None


def test_the_class_can_be_handed_to_another_process():
    (bound,) = bind([{measuring("text_length_filter"): {"min_len": 5, "place": 2}}])
    copy = pickle.loads(pickle.dumps(bound.op))
    assert copy == bound.op
    assert copy.keep_all([[1, 9]]) == [True, True]


def test_what_is_no_filter_is_refused():
    with pytest.raises(RecipeError, match="clean_links_mapper"):
        bind([{measuring("clean_links_mapper"): None}])
    with pytest.raises(RecipeError, match="did you mean 'text_length_filter'"):
        bind([{measuring("text_lenght_filter"): None}])


def test_facts_of_rows_are_noted_whatever_is_wrong_with_their_pictures(tmp_path):
    good = str(write_picture(tmp_path / "a.png", seed=1))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    twin = str(write_picture(tmp_path / "twin.png", seed=1))
    rows = [
        {"text": " <__dj__image> same ", "images": [good, str(broken)]},
        {"text": "<__dj__image> same", "images": [twin]},
        {"text": "other"},
    ]
    hashes = {measuring("PictureHashes"): None}
    first, second, third = (i.stats for i in run(rows, {measuring("RowFacts"): None}, hashes).kept)
    assert first[TEXT] == second[TEXT] != third[TEXT]
    assert first[PICTURES] == [[64, 48], "unreadable image"]
    assert (first[TOKENS], third[TOKENS]) == (1, 0)
    assert (third[FILES], third[PICTURES], third[HASHES]) == ("", [], [])
    assert first[HASHES][0] == second[HASHES][0] != ""
    assert first[HASHES][1] == ""
