"""A stage learns the same from the same rows, whatever format they are written in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_model import SPEC, write_data, write_parts
from vlforge.data.convert import convert
from vlforge.data.formats import index
from vlforge.models.config import ModelSpec
from vlforge.training.config import Mixture, Optimiser, PretrainConfig, TrainConfig
from vlforge.training.loop import train
from vlforge.training.pretrain import pretrain
from vlforge.training.tokenizer import read_texts

TALKS = {
    "dj": "a.jsonl",
    "sharegpt": "a.json",
    "messages": "a.jsonl",
    "query_response": "a.jsonl",
    "alpaca": "a.json",
    "chatml_paddle": "a.json",
    "webdataset": "shards",
    "parquet": "a.parquet",
    "hf_dataset": "folder",
    "folder": "folder",
}
CAPTIONS = {
    "tsv_base64": "a.tsv",
    "webdataset": "a.tar",
    "img2dataset": "shards",
    "csv": "a.csv",
    "cc_sbu_align": "folder",
    "coco": "a.json",
    "mmc4": "a.jsonl",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A LLaVA file, the same rows with nothing asked, parts, and a configuration."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    rows = json.loads(data.read_text())
    for row in rows:
        row["conversations"][0]["value"] = "<image>"
    captions = folder / "captions.json"
    captions.write_text(json.dumps(rows))
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=24,
        batch=4,
        template="vicuna",
        train=("connector",),
        optimiser=Optimiser(lr=1e-2),
    )


def written(source: Path, name: str, target: Path) -> str:
    """The dataset in another format; its path."""
    done = convert(source, target, index.detect(source), index.find(name))
    assert done.written == done.read == 12
    return str(target)


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", TALKS)
def test_conversations_of_any_format_teach_the_same(tmp_path, made, name):
    train(made, tmp_path / "llava", device="cpu")
    data = written(Path(made.data), name, tmp_path / "data" / TALKS[name])
    summary = train(replace(made, data=data), tmp_path / "out", device="cpu")
    assert (summary["data_rows"], summary["dropped"]) == (12, {})
    assert weights(tmp_path / "out") == weights(tmp_path / "llava")


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_of_any_format_teach_the_same(tmp_path, made, name):
    source = Path(made.data).with_name("captions.json")
    train(replace(made, data=str(source)), tmp_path / "llava", device="cpu")
    data = written(source, name, tmp_path / "data" / CAPTIONS[name])
    summary = train(replace(made, data=data), tmp_path / "out", device="cpu")
    assert (summary["data_rows"], summary["dropped"]) == (12, {})
    assert weights(tmp_path / "out") == weights(tmp_path / "llava")


def test_pictures_in_the_data_may_be_decoded_just_in_time(tmp_path, made, monkeypatch):
    config = replace(made, train=("vision", "connector"))
    config = replace(config, data=written(Path(made.data), "webdataset", tmp_path / "shards"))
    train(config, tmp_path / "kept", device="cpu")
    monkeypatch.setattr("vlforge.training.pictures.MEMORY_SHARE", 0.0)
    train(config, tmp_path / "late", device="cpu")
    assert weights(tmp_path / "kept") == weights(tmp_path / "late")
    assert not [path for path in (tmp_path / "late").iterdir() if path.name.startswith(".")]


def test_a_broken_picture_in_the_data_costs_its_row_only(tmp_path, made):
    source = Path(made.data).with_name("captions.json")
    rows = Path(written(source, "tsv_base64", tmp_path / "a.tsv"))
    lines = rows.read_text().splitlines()
    number, picture, caption = lines[3].split("\t")
    lines[3] = "\t".join([number, picture[: len(picture) // 8 * 4], caption])
    rows.write_text("\n".join(lines) + "\n")
    summary = train(replace(made, data=str(rows)), tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 11
    assert sum(summary["dropped"].values()) == 1


def test_a_named_format_overrules_the_content(tmp_path, made):
    told = {
        "text": "[[human]]: Is it?\n[[gpt]]: It is.",
        "query": "Is it?",
        "response": "It is red.",
    }
    data = tmp_path / "both.jsonl"
    data.write_text((json.dumps(told) + "\n") * 4)
    config = replace(made, train=("language",))
    found = train(replace(config, data=str(data)), tmp_path / "found", device="cpu")
    parts = (Mixture(str(data), format="dj"),)
    named = train(replace(config, data=parts), tmp_path / "named", device="cpu")
    assert named["tokens"] == found["tokens"] - 24


def test_a_dataset_has_a_picture_folder_of_its_own(tmp_path, made):
    moved = tmp_path / "moved.json"
    moved.write_text(Path(made.data).read_text())
    parts = (made.data, Mixture(str(moved), image_root=str(Path(made.data).parent)))
    summary = train(replace(made, data=parts), tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 24


def test_an_encoder_and_a_language_learn_from_shards_too(tmp_path, made):
    shards = written(Path(made.data), "webdataset", tmp_path / "shards")
    config = PretrainConfig(
        objective="tags", data=shards, tokenizer=made.model.language, samples=8, vision=SPEC
    )
    assert pretrain(config, tmp_path / "tags", device="cpu")["data_rows"] == 12
    text = replace(config, objective="text")
    assert pretrain(text, tmp_path / "text", device="cpu")["data_rows"] == 24
    assert len(list(read_texts(Path(shards)))) == 24
