"""Slow, fast and today's ids of one sentencepiece file, and that a model keeps its own."""

from __future__ import annotations

import copy
import json
import shutil

import pytest

from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.models.reading import read_tokenizer
from vlforge.runs.row_lengths import stage_rows
from vlforge.text.encode import encode_turns
from vlforge.text.templates import find_template
from vlforge.text.tokenizers import DIALECT_NAME, adapt, load_tokenizer
from vlforge.text.two_tokenizers import TwoTokenizers
from vlforge.training.config import TrainConfig
from vlforge.types import ModelError, Sample, Turn

TRICKY = (" a red car", "<image>\n a", "a </s> b", "car", "", "  ", "\n\nred")


@pytest.fixture
def folder(sentencepiece_folders, tmp_path):
    made = tmp_path / "vicuna"
    shutil.copytree(sentencepiece_folders[False], made)
    settings = {"legacy": False, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    return made


@pytest.mark.parametrize("dialect", ["slow", "fast"])
def test_ids_are_those_of_the_file_and_stay_with_a_saved_model(folder, tmp_path, dialect):
    wanted = load_tokenizer(folder, dialect=dialect)
    tokenizer = read_tokenizer(folder, dialect)
    assert isinstance(tokenizer, TwoTokenizers)
    assert adapt(tokenizer) is tokenizer
    tokenizer.save_pretrained(tmp_path / "out")
    again = read_tokenizer(tmp_path / "out")
    without_transformers = load_tokenizer(tmp_path / "out")
    for text in TRICKY:
        found = [one.ids(text) for one in (tokenizer, again, without_transformers)]
        assert found == [wanted.ids(text)] * 3
    assert tokenizer.encode("car") == [wanted.bos_token_id, *wanted.ids("car")]
    assert tokenizer(["car"])["input_ids"] == [tokenizer.encode("car")]
    assert tokenizer.decode(tokenizer.ids("a red car")) == "a red car"


def test_the_two_differ_where_a_text_starts_with_a_space(folder):
    slow, fast = (load_tokenizer(folder, dialect=dialect) for dialect in ("slow", "fast"))
    assert slow.ids("a red car") == fast.ids("a red car")
    assert slow.ids(" a red car") != fast.ids(" a red car")


def test_a_folder_written_slow_can_be_read_fast(folder, tmp_path):
    read_tokenizer(folder, "slow").save_pretrained(tmp_path / "out")
    fast = read_tokenizer(tmp_path / "out", "fast")
    assert fast.ids(" a red car") == load_tokenizer(folder, dialect="fast").ids(" a red car")


def test_nothing_changes_unless_it_is_asked_for(folder, tmp_path):
    tokenizer = read_tokenizer(folder)
    assert not isinstance(tokenizer, TwoTokenizers)
    tokenizer.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / DIALECT_NAME).exists()


def test_new_tokens_are_one_id_each_and_are_kept(folder, tmp_path):
    tokenizer = read_tokenizer(folder, "slow")
    size = len(tokenizer)
    assert tokenizer.add_tokens(["<im_start>"], special_tokens=True) == 1
    assert tokenizer.ids("<im_start>car")[0] == size
    tokenizer.save_pretrained(tmp_path / "out")
    assert read_tokenizer(tmp_path / "out").ids("<im_start>") == [size]
    assert copy.deepcopy(tokenizer).ids("<im_start>") == [size]


def test_a_folder_without_the_file_says_so(folder, tmp_path):
    read_tokenizer(folder).save_pretrained(tmp_path / "out")
    with pytest.raises(ModelError, match=r"no tokenizer\.model, which `tokenizer: slow` reads"):
        read_tokenizer(tmp_path / "out", "slow")


def test_special_tokens_may_swallow_the_space_beside_them(folder):
    entry = {"special": True, "lstrip": False, "rstrip": False}
    tokens = {
        "900": entry | {"content": "<|end|>", "rstrip": True},
        "901": entry | {"content": "<eoa>", "lstrip": True},
    }
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"legacy": False, "added_tokens_decoder": tokens}))
    for dialect in ("slow", "fast"):
        tokenizer = load_tokenizer(folder, dialect=dialect)
        assert tokenizer.ids("a<|end|> \n car") == tokenizer.ids("a<|end|>car")
        assert tokenizer.ids("a \n<eoa>car") == tokenizer.ids("a<eoa>car")
        assert tokenizer.ids("a <|end|>car") != tokenizer.ids("a<|end|>car")


@pytest.mark.parametrize("has_model", [True, False])
def test_a_check_encodes_with_the_stages_tokenizer(folder, tmp_path, has_model):
    vision, language = write_parts(tmp_path / "parts", write_data(tmp_path))
    vision = vision if has_model else tmp_path / "gone"
    spec = ModelSpec(vision=str(vision), language=str(language), tokenizer=str(folder))
    turns = (Turn("user", "<image> a red car"), Turn("assistant", "a </s> b"))
    sample = Sample("a", ("a.jpg",), turns)
    template = find_template("vicuna")
    found = []
    for dialect in ("slow", "fast"):
        config = TrainConfig(model=spec, data="", template="vicuna", tokenizer=dialect)
        rows = stage_rows(config)
        assert bool(rows.doubt) != has_model
        found.append(adapt(rows.tokenizer).ids(" a red car"))
        wanted = load_tokenizer(folder, dialect=dialect)
        alone = encode_turns(template, wanted, turns, max_length=None, images=1)
        assert rows.encode(sample, None).ids == alone.ids
    assert found[0] != found[1]
