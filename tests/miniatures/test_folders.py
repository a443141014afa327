"""Each system's folder in small: what fetch brings is there, small, and the same each time."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from vlforge.cli.start import main
from vlforge.data.fetch.manifest import read_manifest
from vlforge.evaluation.benchmarks import mmbench, mmvet, pope, textvqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import SYSTEMS, make_miniature
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble
from vlforge.types import DataError, RecipeError

MANIFESTS = {"better_synth": "better_synth", "mgm": "mgm", "xtuner": "xtuner_llava"}
NOT_MADE = {"data/MGM-Eval/MMMU", "data/MGM-Eval/MathVista"}
MOST_BYTES = 5 * 2**20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function from a system to its folder, written once."""
    home, found = tmp_path_factory.mktemp("made"), {}

    def get(system: str) -> Path:
        if system not in found:
            config = MiniatureConfig(system=system, rows=12)
            found[system] = make_miniature(system, home / system, config)
        return found[system]

    return get


def content(folder: Path) -> dict[str, str]:
    """A digest of each file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("system", MANIFESTS)
def test_what_fetch_brings_is_there(made, system):
    wanted = [item.to for item in read_manifest(MANIFESTS[system]).items if not item.optional]
    missing = {to for to in wanted if not (made(system) / to).exists()}
    assert missing <= NOT_MADE
    assert len(wanted) > 8


@pytest.mark.parametrize("system", ["better_synth", "llava", "xtuner"])
def test_a_folder_is_small_and_equal_seeds_write_equal_files(made, tmp_path, system):
    folder = made(system)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES
    config = MiniatureConfig(system=system, rows=12)
    again = make_miniature(system, tmp_path / "again", config)
    first, second = content(folder), content(again)
    assert first.keys() == second.keys()
    assert [name for name, digest in first.items() if second[name] != digest] == []
    other = make_miniature(system, tmp_path / "other", MiniatureConfig(system, rows=12, seed=1))
    changed = [name for name, digest in content(other).items() if first.get(name) != digest]
    assert any(name.endswith(".jpg") for name in changed)
    assert any(re.search(r"\.(bin|safetensors)$", name) for name in changed)


ROWS = {
    "better_synth": {
        "input/pretrain_stage_1_10k/stage_1.json": "input/pretrain_stage_1_10k",
        "toolkit/training/data/finetuning_stage_1_12k/mgm_instruction_stage_1_12k.json":
            "toolkit/training/data/finetuning_stage_1_12k",
    },
    "mgm": {
        "data/MGM-Pretrain/mgm_pretrain.json": "data/MGM-Pretrain",
        "data/MGM-Finetune/mgm_instruction.json": "data/MGM-Finetune",
    },
    "llava": {
        "playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json":
            "playground/data/LLaVA-Pretrain/images",
        "playground/data/llava_v1_5_mix665k.json": "playground/data",
    },
    "xtuner": {
        "data/llava_data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json":
            "data/llava_data/LLaVA-Pretrain/images",
        "data/llava_data/LLaVA-Instruct-150K/llava_v1_5_mix665k.json":
            "data/llava_data/llava_images",
    },
}  # fmt: skip


@pytest.mark.parametrize("system", ROWS)
def test_every_row_has_its_picture_and_some_have_none(made, system):
    for file, images in ROWS[system].items():
        rows = json.loads((made(system) / file).read_text(encoding="utf-8"))
        shown = [made(system) / images / row["image"] for row in rows if "image" in row]
        assert len(shown) >= 12
        for path in shown:
            with Image.open(path) as picture:
                picture.load()
        turns = [row["conversations"] for row in rows]
        assert all(len(one) % 2 == 0 and one[0]["from"] == "human" for one in turns)
        holds = ["<image>" in row["conversations"][0]["value"] for row in rows]
        assert holds == ["image" in row for row in rows]
    assert len(shown) < len(rows)
    modes = {Image.open(path).mode for path in shown}
    assert modes == {"RGB", "L"}


def test_the_seed_rows_of_better_synth_are_those_of_stage_1(made):
    folder = made("better_synth") / "input/pretrain_stage_1_10k"
    lines = (folder / "mgm_pretrain_stage_1_10k.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    original = json.loads((folder / "stage_1.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == [row["id"] for row in original]
    assert all(re.fullmatch(r"<__dj__image> .+\n <\|__dj__eoc\|>", row["text"]) for row in rows)
    assert {row["images"][0].split("/")[0] for row in rows} == {"images", "ALLaVA-4V"}


MODELS = {
    "mgm": [
        ModelSpec(family="mgm", vision="OpenAI/clip-vit-large-patch14-336",
                  vision_high="OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup",
                  language=f"LLM/{name}", image_size_high=64)
        for name in ("gemma/gemma-2b-it", "vicuna/7B-V1.5")
    ],
    "llava": [ModelSpec(vision="openai/clip-vit-large-patch14-336", language="lmsys/vicuna-7b-v1.5",
                        tokenizer_dialect="slow")],
    "xtuner": [ModelSpec(vision="models/clip-vit-large-patch14-336", tokenizer_dialect="fast",
                         language="models/internlm2-chat-7b")],
}  # fmt: skip


@pytest.mark.parametrize("system", MODELS)
def test_the_weights_are_read_by_what_reads_the_real_ones(made, monkeypatch, system):
    monkeypatch.chdir(made(system) / ("model_zoo" if system == "mgm" else "."))
    for spec in MODELS[system]:
        folder = assemble(spec)
        assert folder.model.image_tokens == 16
        ids = folder.tokenizer.encode("What word is written in the picture?")
        assert len(ids) > 5
        assert folder.tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(
    ("name", "token"),
    [("gemma/gemma-2b-it", "<start_of_turn>"), ("gemma/gemma-2b-it", "<end_of_turn>")],
)
def test_a_turns_sign_is_one_token(made, name, token):
    from vlforge.models.reading import read_tokenizer

    tokenizer = read_tokenizer(made("mgm") / "model_zoo/LLM" / name)
    assert len(tokenizer.encode(f"{token}", add_special_tokens=False)) == 1


def test_internlm2s_turns_are_tokens_of_their_own(made):
    from vlforge.models.reading import read_tokenizer

    tokenizer = read_tokenizer(made("xtuner") / "models/internlm2-chat-7b", "fast")
    ids = [tokenizer.encode(f"<|im_{end}|>", add_special_tokens=False) for end in ("start", "end")]
    assert [len(one) for one in ids] == [1, 1]
    assert ids[0] != ids[1]


def test_benchmarks_are_read_by_what_reads_the_real_ones(made):
    asked = made("mgm") / "data/MGM-Eval"
    spec = BenchmarkSpec(
        name="textvqa",
        questions=str(asked / "textvqa/llava_textvqa_val_v051_ocr.jsonl"),
        annotation=str(asked / "textvqa/TextVQA_0.5.1_val.json"),
        images=str(asked / "textvqa/train_images"),
    )
    assert len(textvqa.read(spec)) == 6
    table = asked / "MMB/mmbench_dev_20230712.tsv"
    assert len(mmbench.read(BenchmarkSpec(name="mmbench", questions=str(table)))) == 16
    spec = BenchmarkSpec(
        name="pope",
        questions=str(asked / "pope/llava_pope_test.jsonl"),
        annotation=str(asked / "pope/coco"),
        images=str(asked / "pope/val2014"),
    )
    assert len(pope.read(spec)) == 18
    spec = BenchmarkSpec(
        name="mmvet",
        annotation=str(asked / "mm-vet/mm-vet.json"),
        images=str(asked / "mm-vet/images"),
    )
    assert len(mmvet.read(spec)) == 3
    for name in ("DEV_EN", "TEST_EN", "DEV_CN", "TEST_CN"):
        table = made("xtuner") / f"data/mmbench/MMBench_{name}.tsv"
        assert len(mmbench.read(BenchmarkSpec(name="mmbench", questions=str(table)))) == 16
    table = made("xtuner") / "data/mmbench/CCBench.tsv"
    assert "l2-category" not in table.read_text(encoding="utf-8").partition("\n")[0]


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        make_miniature("llava", tmp_path / "kit")
    assert main(["miniature", "llava", str(tmp_path / "kit")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["kit", "mine.txt"]


def test_the_verb_lists_names_and_refuses_in_one_line(tmp_path, capsys):
    assert main(["miniature"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SYSTEMS)
    for arguments, said in (
        (["miniature", "lava", "x"], "did you mean 'llava'"),
        (["miniature", "llava"], "name the new folder"),
        (["miniature", "llava", "."], "name a new one"),
        (["miniature", "llava", str(tmp_path / "x"), "--rows", "2"], "take 8 to"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(RecipeError, match="no miniature"):
        make_miniature("none", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
