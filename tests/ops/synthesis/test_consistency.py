"""Answers that a model gives again, and captions that agree with the old text."""

from __future__ import annotations

from itertools import cycle

import pytest

from tests.ops.synthesis.asked import EOC, IMAGE, A, B, asked, row
from vlforge.inference.scripted import ScriptedCaptioner, ScriptedModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.synthesis.picture_rows import Pair, dialogue
from vlforge.ops.synthesis.reply_rules import is_refusal, overlap
from vlforge.ops.synthesis.self_training import agreement
from vlforge.types import Caption, Drop, RecipeError

CHECK = "answer_consistency_filter"


def talk(*pairs):
    return row(dialogue([Pair(*pair) for pair in pairs], 1, Context()))


def drawn(*answers):
    left = cycle(answers)
    return lambda sample, times: next(left)


@pytest.mark.parametrize(
    ("old", "answers", "share"),
    [
        ("Red.", ("red", "It is red.", "blue"), 2 / 3),
        ("two", ("2", "There are two buses", "three"), 2 / 3),
        ("No", ("No, it is not.", "yes", "no"), 2 / 3),
        ("yes", ("No, not yes", "Yes.", "yes it is"), 2 / 3),
        ("red", ("It is not red.", "not red", "green"), 0.0),
        ("A man rides a brown horse", ("a man on a brown horse", "a dog", "a cat"), 1 / 3),
        ("是", ("不是", "是的", "是"), 2 / 3),
    ],
)
def test_the_share_of_drawn_answers_that_agree(old, answers, share):
    (found,), writer = asked(CHECK, [talk(("What?", old))], drawn(*answers), model="m")
    assert found == [pytest.approx(share)]
    assert [sample.turns[-1].text for sample in writer.asked] == ["<image>\nWhat?"] * 3
    assert len({sample.id for sample in writer.asked}) == 3


def test_each_question_has_a_share_and_all_or_any_must_hold():
    rows = [talk(("What?", "red"), ("Where?", "left")), row(), row("words")]
    found, _ = asked(CHECK, rows, "red", model="m", times=2)
    assert found == [[1.0, 0.0], [], []]
    every = bind([{CHECK: {"model": "m"}}])[0].op
    assert [every.keep(value) for value in found] == [False, True, True]
    one = bind([{CHECK: {"model": "m", "any_or_all": "any"}}])[0].op
    assert one.keep([1.0, 0.0])
    assert every.fault(CHECK, [[1.0, 0.0]]).reason == "answer_agreement too low"


def test_question_and_answer_can_be_verified_together():
    replies = drawn("Yes.", "no", "YES, it does")
    (found,), writer = asked(CHECK, [talk(("What?", "red"))], replies, model="m", method="verify")
    assert found == [pytest.approx(2 / 3)]
    assert "Question: What?\nAnswer: red" in writer.asked[0].turns[-1].text
    (found,), _ = asked(CHECK, [talk(("何?", "红"))], "是", model="m", method="verify", lang="zh")
    assert found == [1.0]
    (drop,), _ = asked(CHECK, [talk(("What?", "red"))], "maybe", model="m", method="verify")
    assert isinstance(drop, Drop)
    assert "neither yes nor no" in drop.value
    with pytest.raises(RecipeError, match="1 or more"):
        bind([{CHECK: {"model": "m", "times": 0}}])


def test_overlap_counts_words_both_ways():
    assert overlap("the red bus", "Red bus!") == 1
    assert overlap("red bus", "red car") == 0.5
    assert overlap("", "x") == 0
    assert overlap("红色", "红的") == 0.5


@pytest.mark.parametrize(
    "text",
    ["As an AI language model, I", "I’m sorry, but", "I am unable to see it", "作为一个AI,我",
     "很抱歉,图片", "I can't identify people"],
)  # fmt: skip
def test_refusals_are_known(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["A sorry sight", "He is an aid", "I can see a bus", "她抱歉地笑"])
def test_other_texts_are_no_refusals(text):
    assert not is_refusal(text)


def trained(rows, captions, **params):
    op = bind([{"self_training_mapper": {"model": "m", **params}}])[0].op
    models = ScriptedModels(captioners={"m": ScriptedCaptioner.of_files(captions)})
    items = [Item(f"u{n}", n, one) for n, one in enumerate(rows)]
    return op.apply(Batch(items, Context(seed=3, models=models)))


def test_the_caption_that_agrees_best_takes_the_place():
    captions = {A: ["a green boat", "a bus that is red", "a bus"], B: ["a dog", "a cat", "x"]}
    near, far, words, two = trained(
        [row(), row(f"{IMAGE} a red bus {EOC}", B), row("words"), row(f"{IMAGE}{IMAGE} x", A, B)],
        captions,
    )
    assert near["text"] == f"{IMAGE}\na bus that is red {EOC}"
    assert near["provenance"][0]["self_agreement"] == 1.0
    assert far["text"] == f"{IMAGE} a red bus {EOC}"
    assert words == row("words")
    assert "provenance" not in two


def test_what_does_not_agree_can_be_dropped_and_doubts_kept_out():
    captions = {A: ["a green boat", "a red bus"]}
    (drop,) = trained([row()], {A: ["a boat"]}, otherwise="drop")
    assert drop == Drop("", "self_agreement too low", "self_agreement", 0.0, ">= 0.3")
    (kept,) = trained([row()], captions, min_confidence=-0.5, caption_num=2)
    assert kept == row()
    assert agreement("a red bus on the street", "the street with a red bus") == 1
    assert agreement("the", "bus") == 0


def test_a_refusing_captioner_costs_its_row_only():
    class Half:
        def caption(self, images, prompts, count, keys):
            from vlforge.types import Refusal

            made = [[Caption("a red bus", 0.0)], Refusal("picture cannot be read", "x")]
            return made[: len(images)]

    op = bind([{"self_training_mapper": {"model": "m", "caption_num": 1}}])[0].op
    items = [Item(f"u{n}", n, row()) for n in range(2)]
    models = ScriptedModels(captioners={"m": Half()})
    first, second = op.apply(Batch(items, Context(models=models)))
    assert first["text"] == f"{IMAGE}\na red bus {EOC}"
    assert second == Drop("", "picture cannot be read", None, "x")
