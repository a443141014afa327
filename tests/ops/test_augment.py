"""New texts depend on the seed and the row alone, and leave image tokens as they are."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.augment import NlpaugEnMapper, NlpcdaZhMapper, _english_method, between
from vlforge.types import Drop, RecipeError

EN = "The quick brown fox jumps over the lazy dog because it is beautiful"
ZH = "这里一共有5种不同的数据增强方法，我们今天去公园玩了很久很开心"
ALL_EN = dict.fromkeys(NlpaugEnMapper.methods, True)
ALL_ZH = dict.fromkeys(NlpcdaZhMapper.methods, True)


def results(name: str, params: dict, texts, seed: int = 0, uids=None):
    (bound,) = bind([{name: params}])
    uids = uids or [f"row-{n}" for n in range(len(texts))]
    items = [Item(uids[n], n, {"text": text, "n": n}) for n, text in enumerate(texts)]
    return bound.op.apply(Batch(items, Context(seed=seed)))


def new_texts(name: str, params: dict, *texts: str, **how) -> list[list[str]]:
    found = results(name, params, texts, **how)
    return [[row["text"] for row in one.rows] for one in found if isinstance(one, Grown)]


@pytest.mark.parametrize(
    ("name", "params", "text", "count"),
    [
        ("nlpaug_en_mapper", ALL_EN, EN, 18),
        ("nlpaug_en_mapper", {**ALL_EN, "sequential": True}, EN, 2),
        ("nlpcda_zh_mapper", {"swap_random_char": True, "replace_homophone_char": True}, ZH, 4),
        ("nlpcda_zh_mapper", {**ALL_ZH, "sequential": True}, ZH, 2),
    ],
    ids=["en each", "en together", "zh each", "zh together"],
)
def test_each_method_or_all_together_make_new_texts(name, params, text, count):
    (made,) = new_texts(name, {**params, "aug_num": 2}, text)
    assert len(made) == count
    assert all(new != text for new in made)
    (grown,) = results(name, {**params, "keep_original_sample": False}, [text])
    assert not grown.keeps_original
    assert all(row["n"] == 0 for row in grown.rows)


@pytest.mark.parametrize(
    ("name", "params", "text"),
    [("nlpaug_en_mapper", ALL_EN, EN), ("nlpcda_zh_mapper", ALL_ZH, ZH)],
    ids=["en", "zh"],
)
def test_texts_follow_from_seed_and_row_not_from_what_came_before(name, params, text):
    random.seed(5)
    np.random.seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist()
    first, second = new_texts(name, params, text, text)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert first != second
    assert new_texts(name, params, text, uids=["row-1"]) == [second]
    assert new_texts(name, params, text, seed=1) != [first]


def test_no_list_is_in_an_order_that_python_draws_at_its_start():
    spellings = _english_method("spelling_error_word").model.dict
    assert any(len(found) > 2 for found in spellings.values())
    assert all(found == sorted(found) for found in spellings.values())


def test_image_tokens_stay_unless_as_in_data_juicer():
    text = f"<__dj__image>\n {EN} <|__dj__eoc|>"
    params = {"keyboard_error_char": True, "insert_random_char": True, "aug_num": 3}
    (made,) = new_texts("nlpaug_en_mapper", params, text)
    assert all(new.startswith("<__dj__image>\n ") for new in made)
    assert all(new.endswith(" <|__dj__eoc|>") for new in made)
    assert text not in made
    (theirs,) = new_texts("nlpaug_en_mapper", {**params, "compat": "data_juicer"}, text)
    assert not all(new.startswith("<__dj__image>\n") for new in theirs)


def test_parts_between_marks_are_varied_each():
    marks = re.compile("<i>")
    vary = {"a": ["A", "AA"], "b c": ["B"], "x": ["X"]}.__getitem__
    assert between(" a <i>\nb c<i><i> ", marks, vary) == [
        " A <i>\nB<i><i> ",
        " AA <i>\nb c<i><i> ",
    ]
    assert between("x", marks, vary) == ["X"]
    assert between("<i> ", marks, vary) == []


def test_texts_with_nothing_to_change_make_no_rows():
    assert new_texts("nlpaug_en_mapper", ALL_EN, "", "<__dj__image>") == [[], []]
    (drop,) = results("nlpcda_zh_mapper", {**ALL_ZH, "keep_original_sample": False}, [""])
    assert isinstance(drop, Drop)
    assert drop.reason == "no augmented text"
    rows = results("nlpcda_zh_mapper", {}, [ZH])
    assert rows == [{"text": ZH, "n": 0}]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"aug_num": 0}, "aug_num is 0"),
        ({"keep_original_sample": False}, "switch on one of delete_random_word, swap_random_word"),
    ],
)
def test_what_would_leave_nothing_is_refused(params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{"nlpaug_en_mapper": params}])
