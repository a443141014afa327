"""A template's own tokens: in the tokenizer, in the model, in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny_model import folder_of, write_data, write_parts
from vlforge.models.folder import read_folder, with_stage, write_folder
from vlforge.models.new_tokens import add_new_tokens
from vlforge.text.templates import find_template
from vlforge.types import IMAGE_INDEX, RecipeError, Sample, Turn

TEMPLATE = find_template("v1+im_start_end")
SAMPLE = Sample("0", ("a.png",), (Turn("user", "<image>\nIt"), Turn("assistant", "is red")))


@pytest.fixture
def folder(tmp_path):
    data = write_data(tmp_path)
    return folder_of(*write_parts(tmp_path, data))


def test_they_are_one_token_each_and_begin_as_the_mean(folder):
    before = folder.model.get_input_embeddings().weight.detach().clone()
    new = add_new_tokens(folder.model, folder.tokenizer, TEMPLATE.new_tokens)
    assert new == [len(before), len(before) + 1]
    after = folder.model.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    torch.testing.assert_close(after[new], before.mean(0).expand(2, -1))
    output = folder.model.get_output_embeddings().weight
    torch.testing.assert_close(output[new], output[: len(before)].mean(0).expand(2, -1))
    ids = folder.model.encode(SAMPLE, TEMPLATE, folder.tokenizer).ids
    at = ids.index(IMAGE_INDEX)
    assert [ids[at - 1], ids[at + 1]] == new


def test_they_are_added_once(folder):
    add_new_tokens(folder.model, folder.tokenizer, TEMPLATE.new_tokens)
    assert add_new_tokens(folder.model, folder.tokenizer, TEMPLATE.new_tokens) == []


def test_the_folder_keeps_them_and_the_template(folder, tmp_path):
    new = add_new_tokens(folder.model, folder.tokenizer, TEMPLATE.new_tokens)
    write_folder(with_stage(folder, TEMPLATE.name, {}), Path(tmp_path / "out"))
    again = read_folder(tmp_path / "out")
    assert find_template(again.template) == TEMPLATE
    assert again.tokenizer.convert_tokens_to_ids(list(TEMPLATE.new_tokens)) == new
    assert again.model.get_input_embeddings().num_embeddings == new[-1] + 1


def test_mmtag_and_im_start_end_go_together():
    both = find_template("v1_mmtag+im_start_end")
    assert both.image_marks == ("<Image><im_start>", "<im_end></Image>")
    with pytest.raises(RecipeError, match=r"is called 'v1\+im_start'"):
        find_template("v1+im_start")
