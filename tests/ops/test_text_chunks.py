"""Long texts are cut where they should be, and nothing of them is lost."""

from __future__ import annotations

import random

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.chunks import TextChunkMapper
from vlforge.types import RecipeError


def chunks(text, **params):
    """The parts of one text."""
    return TextChunkMapper(**params).chunks(text)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer whose tokens are words, blanks and single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(["two words and two more words"] * 4, trainer)
    made.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    made.save(str(folder / "tokenizer.json"))
    return str(folder)


def test_a_pattern_cuts_and_blank_parts_go():
    assert chunks("a\n\n\n\n b\n\nc") == ["a", " b", "c"]
    assert chunks("a1b2", split_pattern=r"(\d)") == ["a", "1", "b", "2"]


def test_a_length_cuts_with_overlap_up_to_a_tail_of_overlap_alone():
    assert chunks("abcdefg", max_len=4, overlap_len=2, split_pattern=None) == [
        "abcd", "cdef", "efg", "g"
    ]  # fmt: skip
    assert chunks("abcd", max_len=4, split_pattern=None) == ["abcd"]


def test_with_both_the_last_match_cuts_and_force_where_there_is_none():
    assert chunks("aa bb cccccccc d", max_len=5, split_pattern=" ") == [
        "aa",
        "bb",
        "ccccc",
        "ccc d",
    ]
    assert chunks("xxxxxx", max_len=4, overlap_len=1, split_pattern=" ") == ["xxxx", "xxx"]


def test_a_pattern_that_cuts_nothing_off_does_not_go_on_for_ever():
    assert chunks("bbbbb", max_len=2, split_pattern="a*?") == ["bb", "bb", "b"]


def test_ten_thousand_pieces_are_no_recursion():
    text = "word " * 10_000
    assert chunks(text, max_len=5, split_pattern=" ") == ["word"] * 9_999 + ["word "]


def test_rows_carry_the_other_fields_and_keep_their_name_where_nothing_is_cut():
    rows = [{"id": 1, "text": "a\n\nb"}, {"id": 2, "text": "c"}, {"id": 3, "text": " \n\n "}]
    items = [Item(str(at), at + 1, row) for at, row in enumerate(rows)]
    out = run_in_memory(bind(["text_chunk_mapper"]), items, Context())
    assert [(i.uid, i.row["id"], i.row["text"]) for i in out.kept] == [
        ("0/1", 1, "a"), ("0/2", 1, "b"), ("1", 2, "c")
    ]  # fmt: skip
    assert [(item.uid, drop.reason) for item, drop in out.dropped] == [("2", "no text to cut")]
    assert out.kept[2].row is rows[1]


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_tokens_cut_the_text_itself(tokenizer, size):
    pick = random.Random(size)
    for _ in range(50):
        text = "".join(pick.choices(["two", " words", "é", "🙂", "\n", " ", "x"], k=20))
        parts = chunks(text, max_len=size, split_pattern=None, tokenizer=tokenizer)
        assert "".join(parts) == text
        assert all(parts)


def test_tokens_are_counted_without_special_ones_but_for_compat(tokenizer):
    params = {"max_len": 2, "split_pattern": None, "tokenizer": tokenizer}
    assert chunks("two words", **params) == ["two words"]
    assert chunks("two words", compat="data_juicer", **params) == ["<s>two", " words"]


def test_tokens_and_a_pattern_work_together(tokenizer):
    params = {"max_len": 3, "split_pattern": " ", "tokenizer": tokenizer}
    assert chunks("two words two words", **params) == ["two words", "two words"]
    assert chunks("🙂🙂", **params) == ["🙂", "🙂"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"split_pattern": None}, "needs max_len, split_pattern or both"),
        ({"max_len": 0}, "max_len is 0"),
        ({"max_len": 4, "overlap_len": 4}, "overlap_len 4 is not below"),
        ({"overlap_len": -1}, "below 0"),
        ({"split_pattern": "("}, "no regular expression"),
        ({"tokenizer": "gpt-4o", "max_len": 5}, "no folder with a tokenizer.json"),
    ],
)
def test_wrong_parameters_are_refused(params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{"text_chunk_mapper": params}])
