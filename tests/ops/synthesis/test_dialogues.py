"""Dialogues about pictures: what is asked, which pairs stay, and the form of the new rows."""

from __future__ import annotations

import json

import pytest

from tests.ops.synthesis.asked import EOC, IMAGE, A, B, asked, new_rows, row
from vlforge.data.convert import convert
from vlforge.data.formats.dj import DjFormat, write
from vlforge.data.formats.llava import DjToLlava, LlavaFormat
from vlforge.ops.base import Grown
from vlforge.ops.batch import Context
from vlforge.ops.synthesis.picture_rows import Pair, dialogue, pairs_in, pairs_of
from vlforge.ops.synthesis.replies import UnfitError
from vlforge.types import Drop, RecipeError

GOOD = [("What colour is the bus?", "Red."), ("How many buses are there?", "One."),
        ("Is it night?", "No.")]  # fmt: skip


def reply(*pairs):
    return json.dumps([{"question": q, "answer": a} for q, a in pairs], ensure_ascii=False)


def test_pairs_become_one_dialogue_after_the_row():
    (grown,), writer = asked("image_question_answer_mapper", [row()], reply(*GOOD), model="m")
    assert isinstance(grown, Grown)
    assert grown.keeps_original
    (made,) = grown.rows
    assert made["text"] == (
        f"[[human]]: {IMAGE}\nWhat colour is the bus?\n[[gpt]]: Red.\n"
        "[[human]]: How many buses are there?\n[[gpt]]: One.\n"
        f"[[human]]: Is it night?\n[[gpt]]: No. {EOC}"
    )
    assert made["images"] == [A]
    assert made["provenance"][0]["model"] == "m"
    (sample,) = writer.asked
    assert sample.images == (A,)
    assert "caption: a red bus" in sample.turns[-1].text
    assert "Write 3 questions" in sample.turns[-1].text


def test_what_the_row_knows_is_told_and_nothing_else():
    rows = [row(boxes=[{"bus": [1, 2, 3, 4]}], deep={"tags": "bus, street"}), row(IMAGE)]
    keys = ["boxes", "deep.tags", "gone"]
    _, writer = asked("image_dialogue_mapper", rows, reply(*GOOD), model="m", use_text=False,
                      context_keys=keys)  # fmt: skip
    first, second = (sample.turns[-1].text for sample in writer.asked)
    assert 'boxes: [{"bus": [1, 2, 3, 4]}]\ndeep.tags: bus, street\n' in first
    assert "red bus" not in first
    assert "Known of the picture:\nnothing\n" in second


def test_each_pair_can_have_a_row_and_take_the_place_of_the_old_one():
    (grown,), _ = asked("image_question_answer_mapper", [row()], reply(*GOOD), model="m",
                        rows="each", keep_original_sample=False)  # fmt: skip
    assert not grown.keeps_original
    assert [len(pairs_of(made["text"], Context())) for made in grown.rows] == [1, 1, 1]
    (made,), _ = asked("image_question_answer_mapper", [row()], reply(*GOOD), model="m",
                       keep_original_sample=False)  # fmt: skip
    assert made["text"].startswith("[[human]]: ")


def test_two_pictures_stand_before_the_first_question():
    text = f"{IMAGE} one {EOC}{IMAGE} two {EOC}"
    (grown,), writer = asked("image_dialogue_mapper", [row(text, A, B)], reply(*GOOD), model="m")
    assert grown.rows[0]["text"].startswith(f"[[human]]: {IMAGE}\n{IMAGE}\nWhat colour")
    assert writer.asked[0].turns[-1].text.startswith("<image>\n<image>\n")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (("What is it?", " "), "empty"),
        (("What is it?", "As an AI, I cannot see pictures."), "refuses"),
        (("What is it?", "I'm sorry, but I can't tell."), "refuses"),
        (("What is it?", "[[gpt]]: a bus"), "mark"),
        (("What <image> is it?", "a bus"), "mark"),
        (("what colour is the  bus?", "Green."), "asked twice"),
    ],
)
def test_unusable_pairs_are_left_out_and_asked_for_again_where_too_few_stay(bad, why):
    (grown,), _ = asked("image_question_answer_mapper", [row()], reply(*GOOD[:2], bad), model="m")
    assert [p.answer for p in pairs_of(grown.rows[0]["text"], Context())] == ["Red.", "One."]
    (drop,), writer = asked("image_question_answer_mapper", [row()], reply(*GOOD[:2], bad),
                            model="m", min_num=3)  # fmt: skip
    assert isinstance(drop, Drop)
    assert drop.reason == "reply does not follow the format"
    assert "2 usable pairs where 3 are wanted" in drop.value
    assert why in drop.value
    assert len(writer.asked) == 3
    assert why in writer.asked[1].turns[-1].text


def test_more_pairs_than_asked_for_are_cut_and_labels_go():
    pairs = [("Q1: What colour is the bus?", "A1: Red."), *GOOD[1:]]
    (grown,), _ = asked("image_question_answer_mapper", [row()], reply(*pairs), model="m", num=2)
    found = pairs_of(grown.rows[0]["text"], Context())
    assert found == [Pair("What colour is the bus?", "Red."), Pair(*GOOD[1])]


def test_chinese_is_asked_for_and_wanted():
    chinese = reply(("公交车是什么颜色?", "红色"), ("有几辆车?", "1"))
    (grown,), writer = asked("image_question_answer_mapper", [row()], chinese, model="m", lang="zh")
    assert "请写出3个问题" in writer.asked[0].turns[-1].text
    assert grown.rows[0]["text"].startswith(f"[[human]]: {IMAGE}\n公交车是什么颜色?")
    (drop,), _ = asked("image_question_answer_mapper", [row()], chinese, model="m")
    assert "not in English" in drop.value


def test_reasoning_wants_more_than_a_word():
    long = "The street shines and people hold umbrellas, so it rains; the driver has to go slowly."
    (drop,), _ = asked("image_reasoning_mapper", [row()], reply(GOOD[0]), model="m")
    assert "fewer than 80 characters" in drop.value
    (grown,), _ = asked("image_reasoning_mapper", [row()], reply(("Why go slowly?", long)),
                        model="m")  # fmt: skip
    assert pairs_of(grown.rows[0]["text"], Context())[0].answer == long


def test_rows_without_pictures_stay_or_go():
    (kept,), writer = asked("image_dialogue_mapper", [row("words")], "", model="m")
    assert kept == {"text": "words", "images": []}
    (drop,), _ = asked("image_dialogue_mapper", [row("words")], "", model="m",
                       keep_original_sample=False)  # fmt: skip
    assert drop.reason == "no image to write about"
    assert not writer.asked


def test_numbers_that_contradict_each_other_are_refused():
    with pytest.raises(RecipeError, match="1 <= min_num <= num"):
        asked("image_dialogue_mapper", [], "", model="m", num=2, min_num=3)


def test_made_dialogues_come_out_as_llavas_turns(tmp_path):
    (grown,), _ = asked("image_question_answer_mapper", [row(id="a1")], reply(*GOOD), model="m")
    made = {k: v for k, v in grown.rows[0].items() if k != "provenance"}
    write(tmp_path / "made.jsonl", [made])
    convert(tmp_path / "made.jsonl", tmp_path / "llava.json", DjFormat(), LlavaFormat())
    (found,) = json.loads((tmp_path / "llava.json").read_text(encoding="utf-8"))
    turns = [
        {"from": "human", "value": "<image>\nWhat colour is the bus?"},
        {"from": "gpt", "value": "Red."},
        {"from": "human", "value": "How many buses are there?"},
        {"from": "gpt", "value": "One."},
        {"from": "human", "value": "Is it night?"},
        {"from": "gpt", "value": "No."},
    ]
    assert found["conversations"] == turns
    theirs = DjToLlava(image_special_token=IMAGE)(made)["conversations"]
    assert [{**t, "value": t["value"].replace(IMAGE, "<image>")} for t in theirs] == turns


def test_a_dialogue_is_read_as_it_was_written():
    pairs = [Pair("Why?", "Because."), Pair("So?", "Yes:\ntwo lines.")]
    assert pairs_of(dialogue(pairs, 2, Context()), Context()) == pairs
    assert pairs_of(f"{IMAGE} a caption {EOC}", Context()) == []


def reading(words, *pairs):
    told = [{"question": q, "answer": a} for q, a in pairs]
    return json.dumps({"words": words, "pairs": told}, ensure_ascii=False)


def test_ocr_answers_are_words_that_the_model_read():
    good = ("What number is on the bus?", "42")
    bad = ("Who made the bus?", "Volvo")
    (grown,), _ = asked("ocr_question_mapper", [row()], reading(["42", "Main St"], good, bad),
                        model="m")  # fmt: skip
    (made,) = grown.rows
    assert [p.answer for p in pairs_of(made["text"], Context())] == ["42"]
    assert made["__dj__meta__"]["ocr_tokens"] == ["42", "Main St"]
    (drop,), _ = asked("ocr_question_mapper", [row()], reading(["42"], bad), model="m")
    assert "the answer 'Volvo' is not in the picture's words" in drop.value
    told = ("What does the sign that says Main St say?", "Main St")
    (drop,), _ = asked("ocr_question_mapper", [row()], reading(["Main St"], told), model="m")
    assert "stands in its own question" in drop.value


@pytest.mark.parametrize(
    "tokens", [["EXIT", "12B"], "EXIT 12B", [{"text": "EXIT"}, {"word": "12B"}]]
)
def test_ocr_words_can_be_given(tokens):
    pair = ("Which exit is it?", "Exit 12B")
    rows = [row(ocr=tokens), row(ocr=[])]
    (grown, kept), writer = asked("ocr_question_mapper", rows, reply(pair), model="m",
                                  ocr_key="ocr")  # fmt: skip
    assert pairs_of(grown.rows[0]["text"], Context()) == [Pair(*pair)]
    assert "__dj__meta__" not in grown.rows[0]
    assert kept is not None
    assert len(writer.asked) == 1
    assert "EXIT" in writer.asked[0].turns[-1].text
    (_, gone), _ = asked("ocr_question_mapper", rows, reply(pair), model="m", ocr_key="ocr",
                         keep_original_sample=False)  # fmt: skip
    assert gone.reason == "no words in the picture"


def test_a_picture_without_words_is_no_fault():
    (kept,), writer = asked("ocr_question_mapper", [row()], reading([]), model="m")
    assert kept == Grown(True)
    assert len(writer.asked) == 1
    (drop,), _ = asked("ocr_question_mapper", [row()], reading([]), model="m",
                       keep_original_sample=False)  # fmt: skip
    assert drop.reason == "no words in the picture"


def test_chinese_words_stand_in_a_run():
    words = ["北京", "大学"]
    fits = reading(words, ("校门上写着什么?", "北京大学"))
    (grown,), _ = asked("ocr_question_mapper", [row()], fits, model="m", lang="zh")
    assert new_rows(grown)[0]["text"].endswith(f"[[gpt]]: 北京大学 {EOC}")
    other = reading(words, ("校门上写着什么?", "大京"))
    (drop,), _ = asked("ocr_question_mapper", [row()], other, model="m", lang="zh")
    assert isinstance(drop, Drop)


@pytest.mark.parametrize(
    "text",
    [
        "Question:\nWhat is it?\n===\nAnswer:\nA bus.\nIt is red.\n===\nQuestion:\nWhy?\n===\n"
        "Answer:\nPaint.",
        "Here they are.\n\nQ1: What is it?\nA1: A bus.\nIt is red.\n\nQ2: Why?\nA2: Paint.\n",
        "**Question:** What is it?\n**Answer:** A bus.\nIt is red.\n\n**Question:** Why?\n"
        "**Answer:** Paint.",
        "User: What is it?\nAssistant: A bus.\nIt is red.\nUser: Why?\nAssistant: Paint.",
        '[{"question": "What is it?", "answer": "A bus.\\nIt is red."}, '
        '{"question": "Why?", "answer": "Paint."}]',
    ],
)
def test_pairs_are_read_from_json_and_from_spoken_lines(text):
    assert pairs_in(text) == [Pair("What is it?", "A bus.\nIt is red."), Pair("Why?", "Paint.")]


def test_what_holds_no_pairs_is_told():
    with pytest.raises(UnfitError, match="holds no JSON"):
        pairs_in("Question: What is it? I do not know.")
    assert pairs_in("问题1：是什么？\n答案1：公交车\n问题2：颜色？\n答：红") == [
        Pair("是什么？", "公交车"), Pair("颜色？", "红")]  # fmt: skip
