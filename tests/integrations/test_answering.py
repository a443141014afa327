"""Settings and questions as other tools give them, and answers in their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inference.tiny import picture, tiny_folder
from vlforge.integrations.answering import Answerer, Ask, decoding_of
from vlforge.types import ModelError


@pytest.fixture(scope="module")
def answerer(tmp_path_factory) -> Answerer:
    folder = tiny_folder(tmp_path_factory.mktemp("model"), template="v1", positions=256)
    return Answerer(folder, device="cpu", batch=3)


def asks(count: int = 5) -> list[Ask]:
    words = ["what is the cat", "the horse stands", "a red cat", "blue grass", "what"]
    return [Ask((("user", words[n]),), (picture(n),), n) for n in range(count)]


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({}, {"max_new_tokens": 1024, "temperature": 0.0, "beams": 1}),
        ({"max_gen_toks": 7, "temperature": 0, "top_p": None, "num_beams": 1},
         {"max_new_tokens": 7, "temperature": 0.0, "beams": 1}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0, "top_p": 1.0, "top_k": 0}),
        ({"temperature": 0.2, "top_p": 0.9, "top_k": 5, "seed": 3},
         {"temperature": 0.2, "top_p": 0.9, "top_k": 5, "seed": 3}),
        ({"num_beams": 5, "max_new_tokens": 4}, {"beams": 5, "max_new_tokens": 4}),
    ],
)  # fmt: skip
def test_settings_mean_what_they_mean_to_transformers(how, wanted):
    found = decoding_of(how)
    assert {name: found[name] for name in wanted} == wanted


def test_questions_with_settings_of_their_own_keep_their_order(answerer):
    settings = [
        {"max_new_tokens": 6},
        {"max_new_tokens": 2},
        {"max_new_tokens": 6, "do_sample": True, "temperature": 1.5},
        {"max_new_tokens": 3, "num_beams": 2},
        {"max_new_tokens": 6, "until": "blue"},
    ]
    together = answerer.answers(asks(), settings)
    alone = [answerer.answers([ask], [how])[0] for ask, how in zip(asks(), settings, strict=True)]
    assert together == alone
    backwards = answerer.answers(asks()[::-1], settings[::-1])
    assert backwards[::-1] == together


def test_samples_depend_on_the_key(answerer):
    how = {"max_new_tokens": 8, "do_sample": True, "temperature": 2.0}
    same = [Ask((("user", "what"),), (picture(0),), key) for key in (1, 1, 2, 3, 4)]
    first, again, *others = answerer.answers(same, [how] * 5)
    assert first == again
    assert any(other != first for other in others)


def test_an_answer_ends_before_any_of_its_ends(answerer):
    (whole,) = answerer.answers(asks(1), [{"max_new_tokens": 6}])
    word = whole.split()[-1]
    (cut,) = answerer.answers(asks(1), [{"max_new_tokens": 6, "until": ["owl", word]}])
    assert cut == whole.partition(word)[0].strip()
    assert cut != whole


def test_a_loss_is_the_mean_over_the_texts_tokens(answerer):
    (said,) = answerer.answers(asks(1), [{"max_new_tokens": 1}])
    ((best, is_greedy), (other, is_other)) = answerer.losses(asks(1) * 2, [said, "horse"])
    assert is_greedy
    assert not is_other
    assert 0 < best < other
    with pytest.raises(ModelError, match="an empty text has no likelihood"):
        answerer.losses(asks(1), [""])


def test_a_setting_that_is_not_used_is_named_once(answerer):
    how = {"max_new_tokens": 1, "image_aspect_ratio": "pad"}
    with pytest.warns(UserWarning, match="'image_aspect_ratio' is not used"):
        answerer.answers(asks(2), [how, how])
    assert "image_aspect_ratio" in answerer._told


def test_pictures_stand_first_unless_the_words_place_them():
    assert asks(1)[0].sample().turns[0].text == "<image>\nwhat is the cat"
    placed = Ask((("user", "this <image> or <image>?"),), ("a.png", Path("b.png")))
    assert placed.sample().turns[0].text == "this <image> or <image>?"
    assert placed.sample().images == ("a.png", "b.png")
