"""Long descriptions: asked on until they are long, then held to rules."""

from __future__ import annotations

import pytest

from tests.ops.synthesis.asked import EOC, IMAGE, A, B, asked, row
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Drawing, Drop, RecipeError

SHORT = "A red bus stands at a stop."
MORE = "Behind it there are three trees and a tall grey house."


def in_turns(sample, times):
    return SHORT if len(sample.turns) == 1 else MORE


def test_a_short_description_goes_on_once():
    (made,), writer = asked("long_caption_mapper", [row()], in_turns, model="m")
    assert made["text"] == f"{IMAGE}\n{SHORT} {MORE} {EOC}"
    first, second = writer.asked
    assert [turn.role for turn in second.turns] == ["user", "assistant", "user"]
    assert second.turns[0] == first.turns[0]
    assert second.turns[1].text == SHORT
    assert second.turns[2].text == "Continue"
    assert second.images == first.images == (A,)
    assert len({sample.id for sample in writer.asked}) == 2


def test_a_long_description_does_not():
    rows = [row(), row(f"{IMAGE}{IMAGE} x", A, B)]
    (one, two), writer = asked("long_caption_mapper", rows, in_turns, model="m", min_tokens=8)
    assert one["text"] == f"{IMAGE}\n{SHORT} {EOC}"
    assert two["text"] == f"{IMAGE}{IMAGE}\n{SHORT} {EOC}"
    assert len(writer.asked) == 2
    (three,), writer = asked("long_caption_mapper", rows[:1], in_turns, model="m", continuations=3,
                             keep_original_sample=True)  # fmt: skip
    assert three.rows[0]["text"] == f"{IMAGE}\n{SHORT} {MORE} {MORE} {MORE} {EOC}"
    assert [len(sample.turns) for sample in writer.asked] == [1, 3, 5, 7]


def test_other_turns_that_a_model_writes_are_cut():
    def reply(sample, times):
        return f"Assistant: {SHORT}###Human: And now?###Assistant: {MORE}"

    (made,), _ = asked("long_caption_mapper", [row()], reply, model="m", continuations=0)
    assert made["text"] == f"{IMAGE}\n{SHORT} {EOC}"


def test_a_model_that_says_nothing_loses_its_row():
    (drop, no_picture), _ = asked("long_caption_mapper", [row(), row("x")], "###", model="m")
    assert drop == Drop("", "model says nothing")
    assert no_picture.reason == "no image to write about"


def test_descriptions_are_drawn_as_in_the_demo():
    op = bind([{"long_caption_mapper": {"model": "m"}}])[0].op
    assert op.drawing() == Drawing(300, 1.0, 0.9)
    with pytest.raises(RecipeError, match="continuations is -1"):
        bind([{"long_caption_mapper": {"model": "m", "continuations": -1}}])
    with pytest.raises(RecipeError, match="neither a folder or file"):
        asked("long_caption_mapper", [row()], in_turns, model="m", hf_tokenizer="none/there")


def rules(text, **params):
    op = bind([{"caption_rules_mapper": params}])[0].op
    batch = Batch([Item("u", 1, {"text": f"{IMAGE}\n{text} {EOC}", "images": [A]})], Context())
    (found,) = op.apply(batch)
    if isinstance(found, Drop):
        return found
    assert found["text"].startswith(f"{IMAGE}\n")
    return found["text"].removeprefix(f"{IMAGE}\n").removesuffix(f" {EOC}")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"{SHORT} {MORE}", f"{SHORT} {MORE}"),
        (f"{SHORT} {MORE} a red bus stands at a stop! {MORE}", f"{SHORT} {MORE}"),
        (f"{SHORT} {MORE} In front of it a", f"{SHORT} {MORE}"),
        (f"## {SHORT} ###", SHORT),
        (f"{SHORT}###Human: more###Assistant: {MORE}", SHORT),
        (f"Sure! Here is a description: {SHORT}", SHORT),
        (f"{SHORT} Let me know if you want more. {MORE}", f"{SHORT} {MORE}"),
        (f"{SHORT} This is an image-based task. {MORE}", f"{SHORT} {MORE}"),
        ("It costs 3.50 or 4.50 at St. Mark's.", "It costs 3.50 or 4.50 at St. Mark's."),
        ('He says "stop!" He stops', 'He says "stop!"'),
        ("A fragment only", "A fragment only"),
    ],
)
def test_what_does_not_belong_is_struck(text, left):
    assert rules(text) == left


def test_rows_that_are_no_description_are_dropped():
    assert rules("I'm sorry, I made a mistake. A bus.").reason.startswith("description refuses")
    assert rules("A bus.", min_words=3).reason == "description too short"
    assert rules("一辆红色的公交车。").reason == "description not in en"
    assert rules("一辆红色的公交车。树。树。", lang="zh") == "一辆红色的公交车。树。"
    assert rules("A bus. It is 7 am.", unwanted=["^It is"]) == "A bus."
    assert rules("A bus. It is 7", keep_fragments=True) == "A bus. It is 7"
    with pytest.raises(RecipeError, match="no expression"):
        rules("x", unwanted=["("])


def test_the_second_stage_from_pictures_to_checked_texts():
    """MiniGPT-4's order: describe, go on, mend, rules; bad rows say why they went."""
    broken = "A bus. A bus. A bus stands ther"

    def stage_1(sample, times):
        if sample.id.startswith("u1"):
            return "I apologize for that, I made a mistake."
        return broken if len(sample.turns) == 1 else MORE

    def mends(sample, times):
        words = next(turn.text for turn in sample.turns if turn.role == "user")
        return words.rpartition("\n\n")[2].replace("A bus stands ther", SHORT)

    rows, drops = [row(), row()], []
    steps = [
        ("long_caption_mapper", stage_1, {"model": "m"}),
        ("caption_rewriting_mapper", mends, {"model": "m", "goal": "mend"}),
        ("caption_rules_mapper", "", {"min_words": 10}),
    ]
    for name, reply, params in steps:
        if name == "caption_rules_mapper":
            items = [Item(f"u{n}", n, one) for n, one in enumerate(rows)]
            found = bind([{name: params}])[0].op.apply(Batch(items, Context()))
        else:
            found, _ = asked(name, rows, reply, **params)
        drops += [one.reason for one in found if isinstance(one, Drop)]
        rows = [one for one in found if isinstance(one, dict)]
    (made,) = rows
    assert made["text"] == f"{IMAGE}\nA bus. {SHORT} {MORE} {EOC}"
    assert [entry["op"] for entry in made["provenance"]] == [
        "long_caption_mapper", "caption_rewriting_mapper"]  # fmt: skip
    assert drops == ["model refuses"]
