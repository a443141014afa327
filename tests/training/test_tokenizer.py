import json
from collections import Counter

import pytest

from tests.tiny_model import write_data
from vlforge.models.reading import read_tokenizer
from vlforge.training.config import TokenizerConfig
from vlforge.training.tokenizer import choose_vocabulary, train_tokenizer
from vlforge.types import DataError

TEXTS = [
    "a large red circle is at the top left.  The word CAT is printed!",
    "\nWhat is it? A. red\nB. 12 blue ones ASSISTANT: it's a USER",
]


@pytest.fixture
def tokenizer(tmp_path):
    data = tmp_path / "text.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    config = TokenizerConfig(data=(str(data),), extra_words=("USER", "ASSISTANT"))
    train_tokenizer(config, tmp_path / "out")
    return read_tokenizer(tmp_path / "out")


@pytest.mark.parametrize("text", [*TEXTS, "red", " red", "The word ZEBRA is at the left.", "\n\n"])
def test_decoding_gives_back_the_text(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_capitals_are_spelled_and_other_words_are_whole(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(" CAT ASSISTANT: red\nA. 12").input_ids)
    assert tokens == [
        "<s>", "▁", "C", "A", "T", "▁ASSISTANT", ":", "▁red", "\n", "A", ".", "▁1", "2",
    ]  # fmt: skip


def test_specials_have_the_first_ids_and_texts_begin_with_one(tokenizer):
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer("zzz").input_ids == [1, tokenizer.unk_token_id] == [1, 3]
    assert tokenizer("red", add_special_tokens=False).input_ids[0] != 1


def test_tokenising_at_a_space_changes_nothing(tokenizer):
    whole = tokenizer("a large red", add_special_tokens=False).input_ids
    pieces = [
        id_
        for piece in ("a", " large", " red")
        for id_ in tokenizer(piece, add_special_tokens=False).input_ids
    ]
    assert whole == pieces


def test_datasets_and_plain_text_are_read_too(tmp_path):
    plain = tmp_path / "lines.txt"
    plain.write_text("one line\nanother line\n")
    config = TokenizerConfig(data=(str(write_data(tmp_path)), str(plain)))
    facts = train_tokenizer(config, tmp_path / "out")
    assert facts["texts"] == 2 + 24
    known = read_tokenizer(tmp_path / "out").get_vocab()
    assert {"▁red", "another", "▁colour"} <= set(known)
    assert "<image>" not in known


def test_the_same_data_give_the_same_bytes(tmp_path):
    data = write_data(tmp_path)
    for name in ("one", "two"):
        train_tokenizer(TokenizerConfig(data=(str(data),)), tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_most_frequent_words_are_kept():
    counts = Counter({"often": 5, "seldom": 1, "middle": 3})
    always = len(choose_vocabulary(Counter(), 1000, ()))
    kept = choose_vocabulary(counts, always + 5, ())
    assert kept[always:] == ["▁often", "often", "▁middle", "middle"]
    with pytest.raises(DataError, match="max_vocab 10 is below"):
        choose_vocabulary(counts, 10, ())


def test_bad_files_are_named(tmp_path):
    def refused(match, text=None):
        file = tmp_path / "t.jsonl"
        if text is not None:
            file.write_text(text)
        with pytest.raises(DataError, match=match):
            train_tokenizer(TokenizerConfig(data=(str(file),)), tmp_path / "out")

    refused("no such text file")
    refused("no text to train a tokenizer on", "")
    refused("line 2: not a JSON object with a text", '{"text": "a"}\n[1]\n')
    refused("line 2: its text is not a string", '{"text": "a"}\n{"text": 5}\n')
