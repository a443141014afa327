"""MiniGPT-4's miniature is read by what reads the real files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from vlforge.checkpoints.index import read_checkpoint
from vlforge.data.detect import read_samples
from vlforge.data.fetch.manifest import read_manifest
from vlforge.data.formats.index import detect
from vlforge.evaluation.benchmarks import captions, gqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature
from vlforge.text.minigpt4_templates import read_prompts
from vlforge.types import Sample


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "minigpt4"
    return make_miniature("minigpt4", folder, MiniatureConfig("minigpt4", rows=16))


def test_what_fetch_brings_is_there(made):
    manifest = read_manifest("minigpt4")
    wanted = [item.to for item in manifest.items if not item.optional]
    assert len(wanted) > 7
    assert [to for to in wanted if not (made / to).exists()] == []


def test_the_weights_are_one_model_and_the_stage_is_its_connector(made):
    checkpoint = read_checkpoint(made / "weights")
    checkpoint.check()
    assert (checkpoint.layout, checkpoint.template) == ("minigpt4", "minigpt4")
    assert checkpoint.notes == ()
    stage = torch.load(made / "weights" / "prerained_minigpt4_7b.pth")["model"]
    assert torch.equal(checkpoint.weights["connector.weight"].read(), stage["llama_proj.weight"])
    model = checkpoint.build()
    with torch.no_grad():
        seen = model.encode_images(torch.randn(2, 3, 224, 224))
    assert seen[0].shape == (32, checkpoint.config.text_config.hidden_size)
    assert (seen[0] - seen[1]).abs().max() > 1e-2


def test_its_vicuna_reads_the_turns_sign_as_one_token(made):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made / "weights" / "vicuna-7b")
    ids = tokenizer.encode("###Human: hello", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids[:1]) == ["▁###"]
    assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("name", ["laion", "cc_sbu"])
def test_shards_tables_and_counts_agree(made, name):
    folder = made / f"{name}_dataset"
    names = [f"0000{n}{rest}" for n in (0, 1) for rest in (".parquet", ".tar", "_stats.json")]
    assert sorted(path.name for path in folder.iterdir()) == names
    stats = [json.loads(path.read_text()) for path in sorted(folder.glob("*_stats.json"))]
    with tarfile.open(folder / "00000.tar") as tar:
        members = tar.getnames()
        row = json.loads(tar.extractfile("000000000.json").read())
    assert len(members) == 3 * stats[0]["successes"]
    assert sum(one["failed_to_download"] for one in stats) > 0
    assert list(row)[:4] == ["caption", "url", "key", "status"]
    assert (row["width"], row["height"]) == (256, 256)
    listed = next(made.glob(f"{name}/*_synthetic_filtered_large.json"))
    assert len(json.loads(listed.read_text())) == sum(one["count"] for one in stats)
    assert detect(folder).name == "img2dataset"


def test_no_picture_is_in_two_sets(made):
    align = list(read_samples(made / "cc_sbu_align"))
    assert all(isinstance(one, Sample) and one.turns[-1].text.count(". ") >= 2 for one in align)
    said = {one.turns[-1].text.split(". ")[0] for one in align}
    spec = BenchmarkSpec("captions", annotation=str(made / "eval/coco/captions_val2017.json"),
                         images=str(made / "eval/coco/val2017"))  # fmt: skip
    asked = captions.read(spec)
    assert len(asked) == 6
    assert all(Path(one.images[0]).is_file() and len(one.answers) == 2 for one in asked)
    assert not said & {answer for one in asked for answer in one.answers}
    spec = BenchmarkSpec("gqa", annotation=str(made / "eval/gqa/testdev_balanced_questions.json"),
                         images=str(made / "eval/gqa/images"))  # fmt: skip
    questions = gqa.read(spec)
    assert all(Path(one.images[0]).is_file() and one.answers for one in questions)


def test_prompts_and_configurations_have_minigpt4s_form(made):
    prompts = read_prompts(made / "prompts/alignment.txt")
    assert len(prompts) == 4
    first = yaml.safe_load((made / "train_configs/minigpt4_stage1_pretrain.yaml").read_text())
    assert first["run"]["init_lr"] == 1e-4
    assert first["datasets"]["laion"]["sample_ratio"] == 115
    second = yaml.safe_load((made / "train_configs/minigpt4_stage2_finetune.yaml").read_text())
    assert (made / second["model"]["ckpt"]).is_file()
    assert (made / second["model"]["prompt_path"]).is_file()
    defaults = yaml.safe_load((made / "minigpt4/configs/models/minigpt4.yaml").read_text())
    assert (made / defaults["model"]["llama_model"]).is_dir()


def test_equal_seeds_write_equal_files(made, tmp_path):
    config = MiniatureConfig("minigpt4", rows=16)
    again = make_miniature("minigpt4", tmp_path / "again", config)
    names = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    assert [n for n in names if (made / n).read_bytes() != (again / n).read_bytes()] == []
