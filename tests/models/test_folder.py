import json

import pytest
import torch

from tests.tiny_model import COLOURS, folder_of, llama_config, write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble, read_folder, with_stage, write_folder
from vlforge.types import ModelError


@pytest.fixture
def parts(tmp_path):
    return write_parts(tmp_path, write_data(tmp_path))


def test_a_folder_gives_everything_back(tmp_path, parts):
    folder = with_stage(folder_of(*parts), "vicuna", {"kind": "train"})
    write_folder(folder, tmp_path / "out")
    back = read_folder(tmp_path / "out")
    assert (back.template, back.history) == ("vicuna", ({"kind": "train"},))
    assert back.processor == folder.processor
    text = "It is " + next(iter(COLOURS))
    assert back.tokenizer(text).input_ids == folder.tokenizer(text).input_ids
    for (name, mine), theirs in zip(
        folder.model.state_dict().items(), back.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_the_same_model_is_the_same_bytes_wherever_its_parts_lay(tmp_path, parts):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = [part.rename(elsewhere / part.name) for part in parts]
    write_folder(folder_of(*moved), tmp_path / "second")
    back = [part.rename(tmp_path / part.name) for part in moved]
    write_folder(folder_of(*back), tmp_path / "first")
    for file in sorted((tmp_path / "first").iterdir()):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_parts_keep_their_weights(parts):
    folder = folder_of(*parts)
    again = folder_of(*parts)
    assert torch.equal(folder.model.connector[0].weight, again.model.connector[0].weight)
    stored = type(folder.model.language).from_pretrained(parts[1])
    assert torch.equal(folder.model.language.lm_head.weight, stored.lm_head.weight)


def refused(match: str, **spec):
    with pytest.raises(ModelError, match=match) as caught:
        assemble(ModelSpec(**spec))
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_named_in_one_line(tmp_path, parts):
    vision, language = map(str, parts)
    refused("is not a model folder", vision=str(tmp_path / "none"), language=language)
    refused("no tokenizer.json", vision=vision, language=language, tokenizer=vision)
    refused("'llama' is unknown", vision=language, language=language)
    refused("connector 'magic'", vision=vision, language=language, connector="magic")


def test_a_tokenizer_of_another_model_is_refused(tmp_path, parts):
    vision, language = parts
    config = json.loads((language / "config.json").read_text())
    small = type(folder_of(vision, language).model.language)(llama_config(8))
    small.save_pretrained(tmp_path / "small")
    assert config["vocab_size"] > 8
    refused(
        "embeddings; they do not belong together",
        vision=str(vision),
        language=str(tmp_path / "small"),
        tokenizer=str(language),
    )


def test_missing_weights_are_an_error(tmp_path, parts):
    from safetensors.torch import load_file, save_file

    file = parts[1] / "model.safetensors"
    state = load_file(file)
    del state["model.norm.weight"]
    save_file(state, file, {"format": "pt"})
    refused("lacks 1 weights", vision=str(parts[0]), language=str(parts[1]))


def test_a_language_folder_is_no_model(parts):
    with pytest.raises(ModelError, match="'llama', not one of ours"):
        read_folder(parts[1])
