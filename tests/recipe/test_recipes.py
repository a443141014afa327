"""The recipes of the repository: each is read, planned and checked, and says what its
reference does; small stand-ins for its parts go through its stages as they are written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.test_minigpt4 import laid_out
from tests.tiny_mgm import mgm, write_towers
from tests.tiny_model import write_data, write_parts
from tests.tiny_qwen import folder as qwen_folder
from vlforge.models.folder import write_folder
from vlforge.recipe.graph import expand
from vlforge.recipe.load import load_recipe
from vlforge.recipe.references import replace_strings
from vlforge.recipe.schema import Recipe
from vlforge.recipe.typed import build
from vlforge.runs.check import check_recipe
from vlforge.runs.plan import plan_recipe
from vlforge.runs.prepare import Choice
from vlforge.training.budget import settle_batch
from vlforge.training.config import TokenizerConfig, TrainConfig
from vlforge.training.loop import train
from vlforge.training.tokenizer import train_tokenizer
from vlforge.types import RecipeError

FOLDER = Path(__file__).parents[2] / "recipes"
REFERENCES = {
    "llava_1_5": (8, {"align": (256, 1e-3), "instruct": (128, 2e-5)}),
    "llava_1_5_lora": (8, {"align": (256, 1e-3), "instruct": (128, 2e-4)}),
    "mgm_2b": (8, {"align": (256, 1e-3), "instruct": (128, 2e-5)}),
    "mgm_7b": (16, {"align": (256, 1e-3), "instruct": (128, 2e-5)}),
    "better_synth/published": (1, {"align": (256, 1e-3), "instruct": (128, 2e-5)}),
    "better_synth/chosen_unruled": (1, {"align": (256, 1e-3), "instruct": (128, 2e-5)}),
    "better_synth/chosen": (1, {"align": (256, 1e-3), "instruct": (128, 2e-5)}),
    "minigpt4": (4, {"align": (256, 1e-4), "instruct": (12, 3e-5)}),
    "ad_captions": (1, {"tune": (16, 1e-5)}),
    "ad_captions_full": (1, {"tune": (16, 1e-5)}),
    "xtuner_llava_internlm2": (8, {"align": (256, 1e-3), "instruct": (128, 2e-4)}),
}
"""Devices of the reference; global batch and learning rate of its stages."""


def recipes() -> list[Path]:
    """Every recipe that has stages."""
    return [p for p in sorted(FOLDER.rglob("*.yaml")) if "stages:" in p.read_text(encoding="utf-8")]


def name_of(path: Path) -> str:
    """`better_synth/published` of the file's path."""
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def stage(recipe: Recipe, name: str) -> TrainConfig:
    return build(TrainConfig, recipe.stages[name].settings, lambda *keys: name)


@pytest.mark.parametrize("path", recipes(), ids=name_of)
def test_recipes_are_planned_and_checked_before_anything_is_there(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path)
    every = Choice(run_dir=tmp_path / "runs" / "one", arms="all" if recipe.arms else None)
    plan = plan_recipe(path, every)
    assert {row.node.split("@")[0].split(".")[0] for row in plan.rows} == set(recipe.stages)
    bad = [finding.text for finding in check_recipe(path, every) if finding.level == "error"]
    assert all("no such file" in text or "GiB free" in text for text in bad)
    if name_of(path) in REFERENCES:
        assert not any("unknown size" in row.note for row in plan.rows)
        size = load_recipe(path, size="try")
        assert len(expand(size)) == len(expand(recipe))


@pytest.mark.parametrize("name", ["minigpt4", "minigpt4_second_stage", "ad_captions"])
def test_a_miniature_is_not_planned_by_the_names_of_its_folders(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    choice = Choice(run_dir=tmp_path / "runs" / "one", size="tiny")
    rows = plan_recipe(FOLDER / f"{name}.yaml", choice).rows
    assert sum(row.disk_gib for row in rows) < 0.1
    assert sum(row.minutes for row in rows) < 5
    assert not any("7.0 B" in line for row in rows for line in row.advice)


@pytest.mark.parametrize("name", REFERENCES)
def test_recipes_have_their_references_batches_and_rates(name):
    devices, stages = REFERENCES[name]
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    found = {n for n, one in recipe.stages.items() if one.kind == "train"}
    assert found == set(stages)
    for one, (batch, rate) in stages.items():
        config = stage(recipe, one)
        settled = settle_batch(config, 1 if batch == 12 else devices)
        assert (settled.batch, config.optimiser.lr) == (batch, rate)


def test_better_synth_stops_at_another_global_batch():
    recipe = load_recipe(FOLDER / "better_synth/published.yaml")
    with pytest.raises(RecipeError, match="expect_global_batch is 256: set accumulation to 32"):
        settle_batch(stage(recipe, "align"), 2)
    with pytest.raises(RecipeError, match="expect_global_batch is 128: set accumulation to 8"):
        settle_batch(stage(recipe, "instruct"), 4)
    (data,) = stage(recipe, "align").data
    assert data.at_most == 200_000
    assert stage(recipe, "align").seed == stage(recipe, "instruct").seed == 1024


def words(folder: Path, data: Path, *extra: str) -> int:
    """A tokenizer over the words of the data; how many it knows."""
    config = TokenizerConfig(data=(str(data),), extra_words=extra)
    return int(train_tokenizer(config, folder)["vocabulary"])


def stand_in_llava(home: Path, data: Path) -> None:
    _, language = write_parts(home / "parts", data)
    shutil.copytree(language, home / "models" / "vicuna-7b-v1.5")
    shutil.copytree(language, home / "models" / "internlm2-chat-7b")
    write_towers(home / "towers", mgm())
    clip = home / "models" / "clip-vit-large-patch14-336"
    shutil.copytree(home / "towers" / "openai-clip", clip)


def stand_in_mgm(home: Path, data: Path) -> None:
    from transformers import GemmaForCausalLM

    from tests.tiny_mgm import text_config

    low, high = write_towers(home / "towers", mgm("gemma"))
    encoders = home / "model_zoo" / "OpenAI"
    shutil.copytree(low, encoders / "clip-vit-large-patch14-336")
    shutil.copytree(high, encoders / "openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup")
    language = home / "model_zoo" / "LLM" / "gemma" / "gemma-2b-it"
    config = text_config("gemma")
    config.vocab_size = words(language, data)
    torch.manual_seed(0)
    GemmaForCausalLM(config).save_pretrained(language)


def stand_in_minigpt4(home: Path, data: Path) -> None:
    vocabulary = words(home / "words", data, "Human", "Assistant")
    files = laid_out(home / "files", vocab_size=vocabulary)
    for file in (home / "words").iterdir():
        shutil.copy(file, files / "vicuna")
    weights = home / "weights"
    weights.mkdir()
    shutil.copytree(files / "vicuna", weights / "vicuna-7b")
    for name in ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", "minigpt4.json"):
        if (files / name).exists():
            shutil.copy(files / name, weights / name)
    (home / "prompts").mkdir()
    (home / "prompts" / "alignment.txt").write_text("<Img><ImageHere></Img> What colour is it?\n")


def stand_in_qwen(home: Path, data: Path) -> None:
    write_folder(qwen_folder(), home / "base")


SMALL = {
    "batch": 4, "micro_batch": 2, "accumulation": "auto", "expect_global_batch": None,
    "save_every_samples": 0, "tokenizer": "auto", "image_root": None,
    "quantise": "none",
}  # fmt: skip
"""What a stage over a dozen rows differs in."""
MAKES = {
    "llava_1_5": (stand_in_llava, {}),
    "llava_1_5_lora": (stand_in_llava, {}),
    "mgm_2b": (stand_in_mgm, {"image_size_high": 64}),
    "minigpt4": (stand_in_minigpt4, {}),
    "ad_captions": (stand_in_qwen, {}),
    "ad_captions_full": (stand_in_qwen, {}),
    "xtuner_llava_internlm2": (stand_in_llava, {}),
}


def small(settings: dict[str, Any], made: dict[str, Path], model: dict[str, Any]) -> TrainConfig:
    """A recipe's stage over stand-ins: its own settings but for sizes and paths."""

    def place(text: str) -> str:
        return str(made[text[1:]]) if text[1:] in made and text.startswith("$") else text

    placed = replace_strings(settings, place)
    if isinstance(placed["model"], dict):
        placed["model"] |= model
    config = build(TrainConfig, placed, lambda *keys: "")
    data = config.data if isinstance(config.data, tuple) else (config.data,)
    parts = tuple(
        str(made["data"]) if isinstance(part, str) else replace(part, path=str(made["data"]))
        for part in data
    )
    longest = {"mgen_vl": 400}.get(config.template, 64)
    longest = config.max_length if config.compat else longest
    return replace(config, **(SMALL | {"data": parts, "max_length": longest}))


@pytest.mark.parametrize("name", MAKES)
def test_stand_ins_go_through_the_recipe_as_it_is_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, model = MAKES[name]
    made = {"data": write_data(tmp_path / "rows"), "base": tmp_path / "base"}
    make(tmp_path, made["data"])
    recipe = load_recipe(FOLDER / f"{name}.yaml", size="try")
    for one in [n for n, body in recipe.stages.items() if body.kind == "train"]:
        config = small(dict(recipe.stages[one].settings), made, model)
        out = tmp_path / one
        summary = train(config, out, device="cpu")
        assert summary["data_rows"] == 12 * len(config.data)
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [json.loads(line) for line in lines]
        assert len(steps) == summary["steps"] > 0
        assert all(step["loss"] > 0 for step in steps)
        made[one] = out
