"""A text model learns the marked characters and sees the rest."""

import json

import pytest

from vlforge.training.config import TokenizerConfig
from vlforge.training.texts import Text, encode_texts, read_marked_texts
from vlforge.training.tokenizer import train_tokenizer
from vlforge.types import IGNORE_INDEX, DataError

TEXT = "USER: what colour? ASSISTANT: red</s>"


@pytest.fixture
def tokenizer(tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "words.txt").write_text("what colour? red\n")
    config = TokenizerConfig((str(tmp_path / "words.txt"),), extra_words=("USER", "ASSISTANT"))
    train_tokenizer(config, tmp_path / "words")
    return AutoTokenizer.from_pretrained(tmp_path / "words")


def learned(row, tokenizer):
    return tokenizer.convert_ids_to_tokens([i for i in row[1] if i != IGNORE_INDEX])


def test_only_marked_characters_are_learned(tokenizer):
    start = TEXT.index("red")
    (row,) = encode_texts([Text(TEXT, ((start, len(TEXT)),))], tokenizer, 64)
    assert learned(row, tokenizer) == ["▁red", "</s>"]
    assert row[0].count(tokenizer.eos_token_id) == 1


def test_a_text_without_marks_is_learned_whole_and_closed(tokenizer):
    (row,) = encode_texts([Text("what colour")], tokenizer, 64)
    assert row[0] == row[1]
    assert row[0][-1] == tokenizer.eos_token_id


def test_a_text_that_ends_its_line_gets_no_second_end(tokenizer):
    (row,) = encode_texts([Text("what colour\n")], tokenizer, 64)
    assert tokenizer.eos_token_id not in row[0]


def test_marks_are_read_from_json_lines(tmp_path):
    path = tmp_path / "text.jsonl"
    rows = [{"text": TEXT, "supervised": [[30, 33]]}, {"text": "red"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_marked_texts(path)) == [Text(TEXT, ((30, 33),)), Text("red")]


@pytest.mark.parametrize("spans", [[[3, 99]], [[5, 2]], [3], "all"])
def test_spans_outside_the_text_are_named_with_their_line(tmp_path, spans):
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "red", "supervised": spans}) + "\n")
    with pytest.raises(DataError, match=r"text.jsonl line 1"):
        list(read_marked_texts(path))
