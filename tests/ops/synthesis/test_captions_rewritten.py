"""Merging and rewriting captions: facts stay, none are made up, tokens stay in place."""

from __future__ import annotations

import pytest

from tests.ops.synthesis.asked import EOC, IMAGE, PICTURES, A, B, asked, last_words, row
from vlforge.inference.scripted import ScriptedCaptioner, ScriptedModels, ScriptedWriter
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.synthesis.reply_rules import is_in, names, numbers
from vlforge.types import Drop, RecipeError

ALT = f"{IMAGE}\nRoute 42 in Porto, 2019 {EOC}"
SEEN = "a red bus on a street"


def test_both_texts_are_told_and_the_merged_one_replaces_them():
    merged = "A red bus of route 42 on a street in Porto."
    (made,), writer = asked("caption_fusion_mapper", [row(ALT, caption=SEEN)], merged, model="m")
    assert made["text"] == f"{IMAGE}\n{merged} {EOC}"
    assert made["caption"] == SEEN
    assert made["provenance"][0]["prompt"]
    words = last_words(writer.asked[0])
    assert "Route 42 in Porto, 2019" in words
    assert SEEN in words
    assert writer.asked[0].images == ()


@pytest.mark.parametrize(
    "new", ["A bus of route 43.", "A red bus in Lisbon.", "Porto in 2020.", "Three buses."]
)
def test_a_new_number_or_name_is_asked_for_again_and_then_the_caption_stays(new):
    rows = [row(ALT, caption=SEEN)]
    (made,), writer = asked("caption_fusion_mapper", rows, new, model="m")
    assert made["text"] == f"{IMAGE}\n{SEEN} {EOC}"
    assert made["provenance"][0]["took"] == "caption"
    assert len(writer.asked) == 3
    assert "which the given texts do not" in last_words(writer.asked[1])
    (made,), _ = asked("caption_fusion_mapper", rows, new, model="m", otherwise="text")
    assert made == rows[0]
    (drop,), _ = asked("caption_fusion_mapper", rows, new, model="m", otherwise="drop")
    assert isinstance(drop, Drop)
    assert drop.reason == "reply adds facts"


def test_what_is_there_to_merge_decides():
    rows = [row(IMAGE, caption=SEEN), row(ALT), row(f"{IMAGE}{IMAGE}", A, B), row("words")]
    found, writer = asked("caption_fusion_mapper", rows, "x", model="m")
    assert found[0]["text"] == f"{IMAGE}\n{SEEN} {EOC}"
    assert found[1] == Drop("", "no caption to merge", None, "caption")
    assert found[2:] == rows[2:]
    assert not writer.asked


def test_a_captioner_writes_the_caption_that_is_missing():
    op = bind([{"caption_fusion_mapper": {"model": "m", "captioner": "c"}}])[0].op
    captions = ScriptedCaptioner.of_files({A: [SEEN]})
    writer = ScriptedWriter(lambda sample, times: "A red bus in Porto.")
    models = ScriptedModels(captioners={"c": captions}, others={"m": writer})
    rows = [row(ALT), row(ALT, str(PICTURES / "truncated.jpg")), row(IMAGE)]
    items = [Item(f"u{n}", n, one) for n, one in enumerate(rows)]
    made, broken, alone = op.apply(Batch(items, Context(models=models)))
    assert made["text"] == f"{IMAGE}\nA red bus in Porto. {EOC}"
    assert set(made) == {"text", "images", "provenance"}
    assert broken.reason == "truncated image"
    assert alone["text"] == f"{IMAGE}\n{SEEN} {EOC}"
    assert len(writer.asked) == 1
    with pytest.raises(RecipeError, match="or a captioner"):
        bind([{"caption_fusion_mapper": {"model": "m", "caption_key": ""}}])


def test_numbers_and_names():
    assert numbers("a couple of dogs, a DOZEN cats") == {"2", "12"}
    assert numbers("Two of 1,200 buses at 7:30, 三辆") == {"2", "1200", "7:30", "3"}
    assert names("A bus. The bus of Porto and Anna's dog. I see it") == ["Porto", "Anna's"]


def test_chunks_keep_their_tokens_and_get_new_words():
    text = f"{IMAGE}\nan old bus {EOC}{IMAGE} {EOC} plain words {EOC}"

    def reply(sample, times):
        return "one bus, old" if "old bus" in last_words(sample) else '"Words, plain"'

    (made,), writer = asked("caption_rewriting_mapper", [row(text, A, B)], reply, model="m",
                            with_picture=True)  # fmt: skip
    assert made["text"] == f"{IMAGE}\none bus, old {EOC}{IMAGE} {EOC}Words, plain {EOC}"
    assert [sample.images for sample in writer.asked] == [(A,), ()]
    assert "an old bus" in last_words(writer.asked[0])


@pytest.mark.parametrize("goal", ["vary", "clean", "shorten", "mend"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_goal_has_words_in_both_languages(goal, lang):
    op = bind([{"caption_rewriting_mapper": {"model": "m", "goal": goal, "lang": lang}}])[0].op
    prompt = op.prompt()
    assert prompt.fields() == {"text"}
    assert any("\u4e00" <= sign <= "\u9fff" for sign in prompt.user) == (lang == "zh")


@pytest.mark.parametrize(
    ("reply", "params", "why"),
    [
        ("The bus 7.", {}, "the reply says 7"),
        ("A bus.", {"min_ratio": 0.9}, "the given text 9"),
        ("A bus that is red and long.", {"max_ratio": 1.5}, "has 27 characters"),
        ("I cannot help with that.", {}, "refuses"),
        ("公交车", {}, "not in English"),
        ("", {}, "empty"),
    ],
)
def test_bad_rewritings_are_refused(reply, params, why):
    (drop,), _ = asked("caption_rewriting_mapper", [row()], reply, model="m", **params)
    assert why in drop.value
    rows = [row("")]
    assert asked("caption_rewriting_mapper", rows, reply, model="m")[0] == rows


def test_other_tokens_of_a_recipe_are_heeded():
    op = bind([{"caption_rewriting_mapper": {"model": "m", "keep_original_sample": True}}])[0].op
    writer = ScriptedWriter(lambda sample, times: "new")
    context = Context("<pic>", "<end>", models=ScriptedModels(others={"m": writer}))
    item = Item("u", 1, {"text": "<pic>old <end>", "images": [A]})
    (grown,) = op.apply(Batch([item], context))
    assert grown.keeps_original
    assert grown.rows[0]["text"] == "<pic>\nnew <end>"
    assert "<pic>" not in last_words(writer.asked[0])


def test_a_text_may_quote_the_other_language():
    assert is_in("A sign reads 北京大学 above the gate.", "en")
    assert not is_in("A sign reads 北京大学 above the gate.", "zh")
    assert is_in("一辆 Mercedes 汽车停在路边", "zh")
    assert not is_in("一辆红色的车", "en")
    assert is_in("42", "en")
    assert is_in("42", "zh")
