"""Fast counting equals plain counting; mappers change what they should and nothing else."""

from __future__ import annotations

import math
import random
from collections import Counter

import ftfy
import pytest

from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.classes import ALNUM, FEW_CHARACTERS, SPECIAL, PlainTable, special_characters
from vlforge.ops.text.cleaning import FixUnicodeMapper
from vlforge.ops.text.patterns import TextPatternFilter
from vlforge.ops.text.repetition import character_repetition, word_repetition, words_of
from vlforge.ops.text.table import TextTable

ALPHABET = "abAB .,!\n\t9 é中🌌Πг\ud800"


def made_texts(count: int, longest: int = 60, alphabet: str = ALPHABET) -> list[str]:
    pick = random.Random(count * longest)
    return ["".join(pick.choices(alphabet, k=pick.randint(0, longest))) for _ in range(count)]


def values_of(name: str, texts: list[str], **params):
    (bound,) = bind([{name: params}])
    batch = Batch([Item(str(n), n, {"text": t}) for n, t in enumerate(texts)], Context())
    return bound.op.measure(batch)[0]


@pytest.mark.parametrize("texts", [made_texts(200), [], ["", ""], ["", "a", ""]])
def test_shares_equal_a_count_per_character(texts):
    special = set(special_characters())
    alnum = [sum(c.isalnum() for c in t) / len(t) if t else 0.0 for t in texts]
    marks = [sum(c in special for c in t) / len(t) if t else 0.0 for t in texts]
    for table in (TextTable(texts), PlainTable(texts)):
        assert table.ratios(ALNUM) == alnum
        assert table.ratios(SPECIAL) == marks


def test_words_equal_a_split_per_text():
    texts = made_texts(300)
    special = special_characters()

    def words(text: str) -> list[str]:
        parts = text.replace("\n", " ").replace("\t", " ").split(" ")
        return [word for part in parts if (word := part.strip(special))]

    for table in (TextTable(texts), PlainTable(texts)):
        assert table.word_counts() == [len(words(t)) for t in texts]
    assert [words_of(t) for t in texts] == [words(t.lower()) for t in texts]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 10, 13])
def test_character_repetition_equals_a_plain_count(length):
    def plain(text: str) -> float:
        counts = Counter(text[n : n + length] for n in range(len(text) - length + 1))
        ranked = sorted(counts.values(), reverse=True)
        if not ranked:
            return 0.0
        top = min(int(math.sqrt(len(ranked))), sum(count > 1 for count in ranked))
        return sum(ranked[:top]) / sum(ranked)

    texts = made_texts(1200, alphabet="ab 🌌")
    assert sum(map(len, texts)) > FEW_CHARACTERS
    found = values_of("character_repetition_filter", texts, rep_len=length)
    assert found == [plain(text) for text in texts]
    assert found == [character_repetition(text, length) for text in texts]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_word_repetition_equals_a_plain_count(length):
    texts = made_texts(150, 40, "ab c\n")

    def plain(text: str) -> float:
        words = words_of(text)
        grams = Counter(" ".join(words[n : n + length]) for n in range(len(words) - length + 1))
        return sum(n for n in grams.values() if n > 1) / grams.total() if grams else 0.0

    assert values_of("word_repetition_filter", texts, rep_len=length) == [
        plain(text) for text in texts
    ]
    assert [word_repetition(text, length) for text in texts] == [plain(text) for text in texts]


def test_special_tokens_count_unless_told_otherwise():
    text = "<__dj__image>\ndog <|__dj__eoc|>"
    assert values_of("text_length_filter", [text]) == [len(text)]
    assert values_of("text_length_filter", [text], ignore_special_tokens=True) == [3]
    assert values_of("alphanumeric_filter", [text], ignore_special_tokens=True) == [1.0]


@pytest.mark.parametrize(
    "text", ["plain", "a &amp; b", "tab\tand\nline", "bell\x07", "esc\x1b[31m", "cr\r\n", "del\x7f",
             *made_texts(100, alphabet="aé“â€™&;\x0b ﬁ")],
)  # fmt: skip
def test_the_short_cut_before_ftfy_changes_nothing(text):
    assert FixUnicodeMapper().rewrite(text) == ftfy.fix_text(text, normalization="NFC")


def test_patterns_name_the_one_that_matched():
    op = TextPatternFilter(patterns=(r"buy now", r"^\S+\.jpe?g$"))
    texts = ["<__dj__image> IMG_1.JPG\n <|__dj__eoc|>", "Buy now!", "a fine boat"]
    batch = Batch([Item(str(n), n, {"text": t}) for n, t in enumerate(texts)], Context())
    (found,) = op.measure(batch)
    assert found == [r"^\S+\.jpe?g$", "buy now", ""]
    assert [op.keep(value) for value in found] == [False, False, True]
    assert op.fault("f", ("buy now",)).value == "buy now"


@pytest.mark.parametrize(
    ("text", "left"),
    [("see (http://a.b/c_(d)) now", "see () now"), ("a:b", "a:b"), ("www.x.yz.", "."),
     ("x" * 3000 + ".com/" + "a" * 3000 + "(" * 30, "(" * 30)],
)  # fmt: skip
def test_links_end_where_they_end(text, left):
    (bound,) = bind([{"clean_links_mapper": None}])
    assert bound.op.rewrite(text) == left
