"""Translating and rewriting: marks stay, rules are kept, what fails is asked again."""

from __future__ import annotations

import pytest

from tests.ops.synthesis.asking import replies, run
from vlforge.inference.scripted import ScriptedWriter
from vlforge.ops.base import Grown
from vlforge.ops.batch import Context
from vlforge.ops.bind import bind
from vlforge.ops.synthesis.likeness import values_of
from vlforge.ops.synthesis.marked_texts import rejoined, stretches
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.ops.synthesis.translation import is_spoken
from vlforge.types import RecipeError

TRANSLATE, REWRITE = "text_translation_mapper", "text_rewriting_mapper"
LONG = "In 2019 the harbour of the old town had 1.2 million visitors."
LONG_ZH = "2019年，老城的港口有120万名游客。"


def test_words_between_marks_are_translated_each_on_its_own():
    text = "[[human]]: <__dj__image>\nWhat is this?\n[[gpt]]: A dog. <|__dj__eoc|>"
    words = {"What is this?": "这是什么？", "A dog.": "一只狗。"}

    def reply(sample, times):
        return words[sample.turns[-1].text.split("\n\n", 1)[1]]

    ((row,), writer) = run(TRANSLATE, [{"text": text}], reply, model="m")
    assert row["text"] == "[[human]]: <__dj__image>\n这是什么？\n[[gpt]]: 一只狗。 <|__dj__eoc|>"
    assert [sample.id for sample in writer.asked] == ["u0#0", "u0#1"]
    assert row[PROVENANCE][0]["op"] == TRANSLATE
    assert "into Chinese" in writer.asked[0].turns[0].text


def test_chinese_becomes_english_and_fields_are_chosen():
    row = {"query": "天空是什么颜色？", "response": "It is blue on most days.", "text": "不译"}
    ((new,), _) = run(TRANSLATE, [row], replies("What colour is the sky?"), model="m",
                      target_lang="en", keys=["query", "response"])  # fmt: skip
    assert new["query"] == "What colour is the sky?"
    assert (new["response"], new["text"]) == ("It is blue on most days.", "不译")


def test_what_is_in_the_language_stays_and_is_not_asked():
    rows = [{"text": LONG}, {"text": "12 : 30"}, {"text": 3}]
    (same, bare, none), writer = run(TRANSLATE, rows, replies("no"), model="m", target_lang="en")
    assert same == rows[0]
    assert not writer.asked
    assert [bare.reason, none.reason] == ["no text to ask about"] * 2


@pytest.mark.parametrize(
    ("bad", "reason", "said"),
    [
        (
            "2019 et 1.2 million de visiteurs sont venus",
            "another language than asked for",
            "Chinese",
        ),
        ("2019年有120万", "length does not fit", "times as long"),
        ("二〇一九年，老城的港口有120万名游客。", "numbers are lost", "2019"),
        ("I'm sorry, I cannot help with that.", "model refuses", "refuses"),
    ],
)
def test_a_bad_translation_is_asked_again_then_dropped(bad, reason, said):
    ((row,), writer) = run(TRANSLATE, [{"text": LONG}], replies(bad, LONG_ZH), model="m")
    assert row["text"] == LONG_ZH
    assert said in writer.asked[1].turns[-1].text
    ((drop,), _) = run(TRANSLATE, [{"text": LONG}], replies(bad), model="m", try_num=2)
    assert drop.reason == reason


def test_the_old_text_may_stay():
    ((grown,), _) = run(TRANSLATE, [{"text": LONG}], replies(LONG_ZH), model="m",
                        keep_original_sample=True)  # fmt: skip
    assert isinstance(grown, Grown)
    assert grown.keeps_original
    assert [row["text"] for row in grown.rows] == [LONG_ZH]


@pytest.mark.parametrize("reply", [LONG_ZH, "2019年有120万"])
def test_a_model_that_only_translates_gets_the_bare_words_once(reply, monkeypatch):
    monkeypatch.setattr(ScriptedWriter, "translates", True, raising=False)
    row = {"text": f"<__dj__image> {LONG}"}
    ((found,), writer) = run(TRANSLATE, [row], replies(reply), model="m")
    assert [[turn.text for turn in sample.turns] for sample in writer.asked] == [[LONG]]
    if reply == LONG_ZH:
        assert found["text"] == f"<__dj__image> {LONG_ZH}"
    else:
        assert found.reason == "length does not fit"


@pytest.mark.parametrize(
    ("text", "langs"),
    [
        ("狗在草地上跑。", {"zh", "ja"}),
        ("犬が芝生の上を走る。", {"ja"}),
        ("개가 잔디 위를 달린다.", {"ko"}),
        ("A dog", {"en", "fr"}),
        ("A dog is running over the wet grass of the garden.", {"en"}),
        ("Un chien court sur l'herbe mouillée du jardin.", {"fr"}),
        ("4 x 4 = 16", {"en", "fr"}),
        ("12:30", {"zh", "ja", "ko", "en", "fr"}),
        ("苹果发布了 iPhone 15 Pro。", {"zh", "ja"}),
    ],
)
def test_languages_are_told_by_script_and_guess(text, langs):
    assert {lang for lang in ("zh", "ja", "ko", "en", "fr") if is_spoken(text, lang)} == langs


def test_numbers_are_the_same_in_both_languages():
    assert values_of("1,200 of 3.5 million in the 1990s, 50%") == {1200, 3.5e6, 50}
    assert values_of("350万中的1200，50%") == {3.5e6, 1200, 50}


@pytest.mark.parametrize(
    "text",
    ["", " a ", "<__dj__image>a<__dj__image><__dj__image> 3 b  ", "[[gpt]]: 1\n[[human]]: q"],
)
def test_stretches_joined_are_the_text(text):
    parts = stretches(text, Context())
    assert "".join(parts) == text
    assert rejoined(parts, [words for words in parts[::2] if words]) == text


NEW = "1.2 million people came to the harbour of the old town in 2019."


@pytest.mark.parametrize(
    ("params", "asked"),
    [
        ({}, LONG),
        ({"mode": "style", "style": "a sailor's tale"}, f"style: a sailor's tale\n\n{LONG}"),
        ({"mode": "instruction", "instruction": "Be brief."}, f"Be brief.\n\nText:\n{LONG}"),
        ({"input_template": "Anew: {}"}, f"Anew: {LONG}"),
    ],
)
def test_texts_are_rewritten_as_told(params, asked):
    ((row,), writer) = run(REWRITE, [{"text": LONG}], replies(LONG, NEW), model="m", **params)
    assert row["text"] == NEW
    assert writer.asked[0].turns[-1].text.endswith(asked)
    assert "same words" in writer.asked[1].turns[-1].text


@pytest.mark.parametrize(
    ("bad", "reason"),
    [("Many came in 2019 to the harbour of the old town.", "numbers are lost"),
     ("2019: 1.2 million.", "length does not fit"), (LONG, "nothing is rewritten")],
)  # fmt: skip
def test_a_bad_rewriting_is_dropped_with_its_reason(bad, reason):
    ((drop,), _) = run(REWRITE, [{"text": LONG}], replies(bad), model="m")
    assert drop.reason == reason


@pytest.mark.parametrize(
    ("op", "params", "said"),
    [
        (REWRITE, {"mode": "style"}, "say which by the key style"),
        (REWRITE, {"input_template": "{what}"}, r"nothing fills in \{what\}"),
        (TRANSLATE, {"source_lang": "en", "target_lang": "en"}, "both 'en'"),
    ],
)
def test_mistakes_in_recipes_are_named(op, params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{op: {"model": "m", **params}}])
