"""Answers, descriptions and tags of pictures, good replies and bad ones."""

from __future__ import annotations

import json

import pytest

from tests.ops.synthesis.asked import EOC, IMAGE, A, B, asked, new_rows, row
from vlforge.ops.base import Grown
from vlforge.ops.batch import Context
from vlforge.ops.bind import bind
from vlforge.ops.synthesis.picture_rows import pairs_of
from vlforge.types import Drawing, Drop, RecipeError, Refusal

GPT4V = "image_captioning_from_gpt4v_mapper"
TALK = json.dumps([{"question": f"What is {n}?", "answer": f"It is {n}."} for n in "abc"])


def test_an_answer_takes_the_texts_place_and_leaves_a_valid_row():
    rows = [row(f"{IMAGE}{IMAGE} What differs? {EOC}", A, B), row("What is 1 + 1?"), row(IMAGE)]
    (two, none, wordless), writer = asked("mllm_mapper", rows, "The colour.")
    assert two["text"] == f"{IMAGE}{IMAGE}\nThe colour. {EOC}"
    assert none["text"] == f"The colour. {EOC}"
    assert wordless == Drop("", "no words to ask with")
    assert writer.asked[0].turns[-1].text == "<image>\n<image>\nWhat differs?"
    assert writer.asked[0].images == (A, B)


def test_an_answer_as_data_juicer_has_it_is_the_whole_text():
    (made,), _ = asked("mllm_mapper", [row()], " The colour.\n", compat="data_juicer")
    assert made == {"text": "The colour.", "images": [A]}


def test_answers_are_drawn_as_the_keys_say():
    def drawing(**params):
        return bind([{"mllm_mapper": params}])[0].op.drawing()

    assert drawing() == Drawing(256, 0.2, 1.0, 1)
    assert drawing(top_p=0.9, max_new_tokens=5) == Drawing(5, 0.2, 0.9, 1)
    assert drawing(num_beams=4) == Drawing(256, 0.0, 1.0, 4)
    assert drawing(temperature=None).temperature == 0


def test_an_empty_answer_is_asked_for_again():
    (made,), writer = asked("mllm_mapper", [row()], lambda sample, times: "" if not times else "x")
    assert made["text"] == f"{IMAGE}\nx {EOC}"
    assert len(writer.asked) == 2


def test_every_picture_has_tags_of_its_own():
    def reply(sample, times):
        if sample.images == (A,):
            return '```json\n{"tags": ["Red bus", "street ", "red  bus", "", "x"]}\n```'
        return '{"tags": ["beach"]}'

    rows = [row(f"{IMAGE}{IMAGE}", A, B), row("none"), row(__dj__meta__={"image_tags": [["a"]]})]
    (made, none, known), writer = asked("image_tagging_vlm_mapper", rows, reply)
    assert made["__dj__meta__"] == {"image_tags": [["red bus", "street", "x"], ["beach"]]}
    assert none == rows[1]
    assert known == rows[2]
    assert len(writer.asked) == 2
    assert "at most 20" in writer.asked[0].turns[-1].text


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("red, bus", "no JSON"),
        ('{"labels": ["bus"]}', "missing required field `tags`"),
        ('{"tags": "bus"}', "Expected `array`"),
        ('{"tags": []}', "no tag"),
        ('{"tags": ["公交车"]}', "not in English"),
        ("I'm sorry, I can't see it", "refuses"),
    ],
)
def test_tags_that_do_not_fit_are_asked_for_again(bad, why):
    (drop,), writer = asked("image_tagging_vlm_mapper", [row()], bad, try_num=2)
    refuses = why == "refuses"
    assert drop.reason == ("model refuses" if refuses else "reply does not follow the format")
    assert why in drop.value
    assert len(writer.asked) == 2


def test_tags_in_chinese_and_under_another_name():
    (made,), writer = asked("image_tagging_vlm_mapper", [row()], '{"tags": ["公交车"]}', lang="zh",
                            tag_field_name="t", max_tags=3)  # fmt: skip
    assert made["__dj__meta__"] == {"t": [["公交车"]]}
    assert "最多3个" in writer.asked[0].turns[-1].text
    (_,), writer = asked("image_tagging_vlm_mapper", [row()], '{"tags": ["bus"]}',
                         input_template="Tag it as JSON.")  # fmt: skip
    assert writer.asked[0].turns[-1].text == "<image>\nTag it as JSON."


def test_each_description_follows_its_own_picture():
    def reply(sample, times):
        return "First." if sample.images == (A,) else "Second."

    text = f"{IMAGE}{IMAGE} old {EOC} words {EOC}{IMAGE} x"
    (grown,), writer = asked(GPT4V, [row(text, A, B, A)], reply)
    assert grown.keeps_original
    assert grown.rows[0]["text"] == (
        f"{IMAGE} First. {IMAGE} Second. {EOC}{EOC}{IMAGE} First. {EOC}"
    )
    assert grown.rows[0]["provenance"][0]["model"] == "gpt-4o"
    assert len({sample.id for sample in writer.asked}) == 3


@pytest.mark.parametrize(("mode", "pairs"), [("conversation", 3), ("reasoning", 1)])
def test_conversations_become_dialogues(mode, pairs):
    (grown,), writer = asked(GPT4V, [row()], f"Here you are:\n{TALK}", mode=mode,
                             keep_original_sample=False)  # fmt: skip
    assert not grown.keeps_original
    assert len(pairs_of(grown.rows[0]["text"], Context())) == pairs
    assert "caption" not in writer.asked[0].turns[-1].text
    assert "a red bus" in writer.asked[0].turns[-1].text


def test_conversations_as_data_juicer_has_them_are_not_looked_at():
    (grown,), _ = asked(GPT4V, [row()], "Question: a? ===", mode="conversation",
                        compat="data_juicer")  # fmt: skip
    assert grown == Grown(True, ({"text": f"{IMAGE} Question: a? === {EOC}", "images": [A]},))


def test_prompts_of_ones_own():
    rows = [row(q="Say it in {words}."), row()]
    _, writer = asked(GPT4V, rows, "ok", mode="custom", system_prompt="Be kind.",
                      user_prompt="What?", user_prompt_key="q")  # fmt: skip
    turns = [[turn.text for turn in sample.turns] for sample in writer.asked]
    assert turns == [["Be kind.", "<image>\nSay it in {words}."], ["Be kind.", "<image>\nWhat?"]]
    with pytest.raises(RecipeError, match="give user_prompt"):
        bind([{GPT4V: {"mode": "custom"}}])
    with pytest.raises(RecipeError, match="set OPENAI_API_KEY"):
        bind([{GPT4V: {"api_key": "sk"}}])


@pytest.mark.parametrize("fault", ["I'm sorry, I cannot help.", Refusal("picture cannot be read")])
def test_a_picture_without_description_costs_its_words_or_the_row(fault):
    def reply(sample, times):
        return fault if sample.images == (B,) else "Fine."

    text = f"{IMAGE}{IMAGE} old {EOC}"
    rows = [row(text, A, B), row(f"{IMAGE} b", B)]
    (grown, drop), _ = asked(GPT4V, rows, reply)
    assert grown.rows[0]["text"] == f"{IMAGE} Fine. {IMAGE} {EOC}"
    assert drop.reason in ("model refuses", "picture cannot be read")
    (drop, _), _ = asked(GPT4V, rows, reply, any_or_all="all")
    assert drop.reason == "a picture got no fit reply"


def test_rows_that_cannot_be_described():
    rows = [row("no picture"), row(f"{IMAGE}{IMAGE}", A)]
    (none, wrong), writer = asked(GPT4V, rows, "x")
    assert none == Grown(True)
    assert wrong.reason == "image tokens do not match images"
    (none, _), _ = asked(GPT4V, rows, "x", keep_original_sample=False)
    assert none.reason == "no image to write about"
    assert not writer.asked


def test_marks_of_pictures_in_words_and_replies_do_not_count_as_pictures():
    def reply(sample, times):
        marks = sum(turn.text.count("<image>") for turn in sample.turns)
        assert marks == len(sample.images) == 1
        return "" if times == 0 else "<image> fine"

    rows = [row(f"{IMAGE} a <image> b {EOC}", caption="x <image>")]
    for op in ("mllm_mapper", "image_question_answer_mapper", "caption_fusion_mapper"):
        params = {} if op == "mllm_mapper" else {"model": "m"}
        params |= {"with_picture": True} if op == "caption_fusion_mapper" else {}
        assert len(asked(op, rows, reply, **params)[1].asked) >= 2


@pytest.mark.parametrize(
    ("op", "params"),
    [
        ("mllm_mapper", {}),
        (GPT4V, {"keep_original_sample": False}),
        ("caption_rewriting_mapper", {"model": "m"}),
        ("caption_fusion_mapper", {"model": "m"}),
        ("long_caption_mapper", {"model": "m", "min_tokens": 1}),
    ],
)
def test_tokens_in_a_reply_do_not_become_pictures_of_the_row(op, params):
    reply = f"{IMAGE} a red <image> bus {EOC}"
    (found,), _ = asked(op, [row(caption="a red image bus")], reply, **params)
    (made,) = new_rows(found)
    assert made["text"].count(IMAGE) == made["text"].count(EOC) == 1
    assert "<image>" not in made["text"]
    assert "a red" in made["text"]


@pytest.mark.parametrize(
    ("op", "own"),
    [
        ("image_dialogue_mapper", {"model": "m"}),
        (GPT4V, {}),
        ("long_caption_mapper", {"model": "m"}),
        ("answer_consistency_filter", {"model": "m"}),
    ],
)
def test_sampling_can_be_left_open_and_named(op, own):
    open_, named = (
        bind([{op: {**own, "sampling_params": params, "model_params": None}}])[0].op
        for params in (None, {"temperature": 0.3, "max_tokens": 7})
    )
    assert open_.drawing().max_new_tokens > 7
    assert (named.drawing().temperature, named.drawing().max_new_tokens) == (0.3, 7)
