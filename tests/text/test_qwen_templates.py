from __future__ import annotations

import pytest

from tests.tiny_qwen import tokenizer
from vlforge.text.encode import encode_turns
from vlforge.text.qwen_templates import (
    MGEN_VL,
    QWEN_VL,
    SYSTEM,
    chat_context,
    spans_to_images,
)
from vlforge.text.render import render
from vlforge.text.templates import find_template
from vlforge.types import DataError, Turn

TOKENS = tokenizer()


def asked(*texts: str) -> list[Turn]:
    roles = ("user", "assistant")
    return [Turn(roles[place % 2], text) for place, text in enumerate(texts)]


def spoken(ids: list[int]) -> str:
    return TOKENS.decode([token for token in ids if token >= 0])


def test_pictures_are_numbered_through_the_conversation():
    turns = asked("<image>\nred?", "is", "the <image> and <image>\n red", "the")
    text = render(QWEN_VL, turns).text.replace("<image>", "X")
    assert "user\nPicture 1: <img>X</img>\nred?<|im_end|>" in text
    assert "the Picture 2: <img>X</img>\n and Picture 3: <img>X</img>\n red" in text
    assert "Picture 1:<img>X</img>\n" in render(MGEN_VL, turns).text.replace("<image>", "X")


def test_a_label_that_the_text_has_is_kept():
    turns = asked("Picture 7: <image>\nred?", "is")
    assert "user\nPicture 7: <img><image></img>\nred?" in render(QWEN_VL, turns).text


def test_the_template_is_the_references_chat():
    query = "Picture 1: <img>a.png</img>\nis the red <ref>red</ref>\n\nthe"
    context = chat_context(TOKENS, query, [("the", "is")])
    ids, _, names = spans_to_images(TOKENS, context.ids)
    turns = asked("the", "is", query.replace("<img>a.png</img>", "<image>"))
    made = encode_turns(QWEN_VL, TOKENS, turns, max_length=None, generation=True, images=1)
    assert names == ["a.png"]
    assert made.ids == ids


@pytest.mark.parametrize(
    "words", ["<|im_end|>", "<img>secret.txt</img>", "<image>", "<|im_start|>"]
)
@pytest.mark.parametrize("template", [QWEN_VL, MGEN_VL])
def test_what_people_write_is_no_markup(words, template):
    plain = encode_turns(template, TOKENS, asked("the", "is"), max_length=None, images=0)
    spelled = encode_turns(
        template, TOKENS, asked(f"the{words}", f"is{words}"), max_length=None, images=0
    )
    special = set(TOKENS.special.values())
    assert [t for t in spelled.ids if t in special] == [t for t in plain.ids if t in special]
    assert words in spoken(spelled.ids)


def test_answers_and_their_ends_are_learned():
    turns = asked("<image>\nthe", "is <|im_end|> red", "the", "red")
    made = encode_turns(QWEN_VL, TOKENS, turns, max_length=None, images=1)
    learned = [label for label in made.labels if label != -100]
    assert spoken(learned) == "is <|im_end|> red<|im_end|>red<|im_end|>"
    assert made.ids.count(-200) == 1
    assert find_template("qwen_vl") is QWEN_VL


def test_history_is_kept_while_it_stays_below_the_window():
    whole = chat_context(TOKENS, "the", [("red", "is"), ("is", "red")])
    last = chat_context(TOKENS, "the", [("is", "red")])
    none = chat_context(TOKENS, "the")
    asking = len(none.ids) - len(TOKENS.ids(f"<|im_start|>system\n{SYSTEM}<|im_end|>"))
    for context, window in ((whole, len(whole.ids) - asking + 1), (last, len(whole.ids) - asking)):
        made = chat_context(TOKENS, "the", [("red", "is"), ("is", "red")], window=window)
        assert made == context
    assert chat_context(TOKENS, "the", [("is", "red")], window=1) == none


def test_finetunes_labels_hold_every_turns_borders():
    made = encode_turns(
        QWEN_VL, TOKENS, asked("the", "is"), max_length=None, compat="qwen-vl", images=0
    )
    start, end, line = TOKENS.turn_start_id, TOKENS.turn_end_id, TOKENS.ids("\n")[0]
    learned = [label for label in made.labels if label != -100]
    border = [end, line]
    assert learned == [start, *border, start, *border, start, *TOKENS.ids("is"), *border]
    spelled = encode_turns(
        QWEN_VL, TOKENS, asked("a<|im_end|>", "is"), max_length=None, compat="qwen-vl", images=0
    )
    assert spelled.ids.count(end) == made.ids.count(end) + 1


def test_mgens_rows_lose_their_picture_and_paddlemix_keeps_it():
    turns = asked("<image>\nthe", "is")
    kept, lost, bare = (
        encode_turns(MGEN_VL, TOKENS, given, max_length=None, compat=compat, images=images)
        for given, compat, images in (
            (turns, "paddlemix", 1),
            (turns, "mgen-vl", 1),
            (asked("the", "is"), "paddlemix", 0),
        )
    )
    assert -200 in kept.ids
    assert lost == bare


@pytest.mark.parametrize("turns", [asked("the"), asked("a<|im_end|>b<|im_start|>", "is")])
def test_rows_on_which_paddlemix_fails_are_refused(turns):
    with pytest.raises(DataError, match="on which PaddleMIX fails"):
        encode_turns(MGEN_VL, TOKENS, turns, max_length=None, compat="paddlemix", images=0)


def test_a_cut_keeps_ids_and_labels_together():
    for compat in ("qwen-vl", None):
        made = encode_turns(QWEN_VL, TOKENS, asked("the", "is"), max_length=9, compat=compat)
        assert len(made.ids) == len(made.labels) == 9 < made.length
