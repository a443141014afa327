"""Repetition counted for a batch at once equals that of single texts to the last bit."""

from __future__ import annotations

import random

import pytest

from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.classes import FEW_CHARACTERS
from vlforge.ops.text.ngrams import (
    LONG,
    character_ratios,
    character_repeats,
    word_ratios,
    word_repeats,
)
from vlforge.ops.text.repetition import character_repetition, word_repetition
from vlforge.ops.text.table import SLICE, TextTable
from vlforge.types import RecipeError

NASTY = "aAbBcC 09.,!-\n\t\r\x00\x85\u2028\u3000ßẞİıΣσςǅﬁé中文۵🌌👩\u200d🚀\ud800\udfff\U0010ffff"
WORDS = (
    "a",
    "A",
    "the",
    "The.",
    "(the)",
    "İstanbul",
    "ΟΔΟΣ",
    "οδος",
    "straße",
    "--",
    "9",
    "中文",
    "🌌",
)


def nasty_texts(seed: int, count: int) -> list[str]:
    """Characters of all kinds, words that differ in case and marks only, blanks, nothing."""
    pick = random.Random(seed)
    texts = ["", " ", "\n\t ", "a", "🌌" * 300, "ab" * 400, "the " * 200, ". . . " * 40]
    for _ in range(count):
        some = pick.sample(NASTY, pick.randint(1, 12))
        texts.append("".join(pick.choices(some, k=pick.choice((0, 3, 20, 80, 400)))))
        gaps = pick.choice((" ", "  ", " \n", "\t", "\r", "\u3000"))
        texts.append(gaps.join(pick.choices(WORDS, k=pick.randint(0, 60))))
    pick.shuffle(texts)
    return texts


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 10, 31])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_shares_equal_those_of_single_texts(seed, length):
    texts = nasty_texts(seed, 250)
    assert sum(map(len, texts)) > SLICE
    plain = [character_repetition(text, length) for text in texts]
    assert character_ratios(texts, length, character_repetition) == plain
    plain = [word_repetition(text, length) for text in texts]
    assert word_ratios(texts, length, word_repetition) == plain


@pytest.mark.parametrize("size", [SLICE - 1, SLICE, SLICE + 1, LONG + 1])
def test_a_long_text_between_short_ones_is_counted_alike(size):
    pick = random.Random(size)
    long = "".join(pick.choices("ab cd ", k=size))
    texts = ["ab ab ab", long, "", "ab ab ab ab", long[:100]]
    for length in (2, 10):
        plain = [character_repetition(text, length) for text in texts]
        assert character_ratios(texts, length, character_repetition) == plain
        plain = [word_repetition(text, length) for text in texts]
        assert word_ratios(texts, length, word_repetition) == plain


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["a"], ["ab", "", "ab"]])
def test_texts_too_short_for_an_ngram_have_none(texts):
    assert character_ratios(texts, 3, character_repetition) == [0.0] * len(texts)
    assert word_ratios(texts, 3, word_repetition) == [0.0] * len(texts)


def thue_morse(letters: str, size: int) -> str:
    """A sequence that has, with its letters exchanged, the same polynomial hash modulo 2^64."""
    return "".join(letters[number.bit_count() % 2] for number in range(size))


def test_unlike_ngrams_of_one_hash_are_not_taken_for_alike():
    size = 4096
    one, other = thue_morse("xy", size), thue_morse("yx", size)
    assert character_repeats(TextTable([one + other]), size).doubtful == {0}
    assert character_ratios(["", one + other], size, character_repetition) == [0.0, 0.0]
    table = TextTable([f"{one} {other}"])
    assert word_repeats(table.codes, table.words(), 1).doubtful == {0}
    texts = [f"{one} {other}", f"{one} {other} {one}"]
    assert word_ratios(texts, 1, word_repetition) == [0.0, 2 / 3]


def test_a_row_is_not_compared_with_its_neighbours():
    texts = ["one two three four five six"] * 50
    assert character_ratios(texts, 10, character_repetition) == [0.0] * 50
    assert word_ratios(texts, 2, word_repetition) == [0.0] * 50


@pytest.mark.parametrize("name", ["character_repetition_filter", "word_repetition_filter"])
def test_a_large_batch_and_a_small_one_measure_the_same(name):
    texts = nasty_texts(7, 400)
    ((bound),) = bind([{name: {"rep_len": 3}}])

    def measured(some: list[str]) -> list[float]:
        items = [Item(str(n), n, {"text": text}) for n, text in enumerate(some)]
        return bound.op.measure(Batch(items, Context()))[0]

    assert sum(map(len, texts)) > FEW_CHARACTERS
    single = [value for text in texts for value in measured([text])]
    assert measured(texts) == single


@pytest.mark.parametrize("name", ["character_repetition_filter", "word_repetition_filter"])
def test_an_ngram_of_nothing_is_refused(name):
    with pytest.raises(RecipeError, match=f"{name}.rep_len is 0"):
        bind([{name: {"rep_len": 0}}])
