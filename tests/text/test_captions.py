"""Captions before any token is made."""

import pytest

from vlforge.text.captions import BlipCaption
from vlforge.types import RecipeError


@pytest.mark.parametrize(
    ("options", "given", "wanted"),
    [
        ({}, "A Dog, (very \"happy\")! sits; near ~ the #1 tree: yes.",
         "a dog, very happy sits near the 1 tree yes"),
        ({}, " one\ttab, two\t\ttabs\n", "one\ttab, two tabs"),
        ({}, "a\u3000\u3000b-c's", "a b-c's"),
        ({"max_words": 2}, "One two. three", "one two"),
        ({"max_words": 0}, "One", ""),
        ({"max_words": 1, "prompt": "A photo of "}, "A CAT.", "A photo of a"),
        ({"prompt": "It is "}, "...", "It is "),
    ],
)  # fmt: skip
def test_captions_are_small_letters_without_marks_and_cut(options, given, wanted):
    assert BlipCaption(**options)(given) == wanted


def test_fewer_than_no_words_are_refused():
    with pytest.raises(RecipeError, match="max_words is -1"):
        BlipCaption(max_words=-1)
