"""Better Synth's whole way on the small kit: init, check, both trainers, both packages."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlforge.challenges.better_synth.config import GLOBAL_BATCH, SCRIPTS
from vlforge.cli import main
from vlforge.data.formats.dj import read
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature
from vlforge.recipe.load import load_recipe

pytestmark = pytest.mark.slow
ROWS = 8
SEED = "input/pretrain_stage_1_10k"
NAME, FIRST = "MGM-2B-Finetune-default", "MGM-2B-Pretrain-default"


def order(*words: str) -> int:
    return main(["challenge", "better-synth", *words])


@pytest.fixture(scope="module")
def contest(tmp_path_factory) -> Iterator[Path]:
    """The folder after everything that a contestant does."""
    folder = tmp_path_factory.mktemp("better") / "contest"
    make_miniature("better_synth", folder, MiniatureConfig("better_synth", rows=ROWS))
    with pytest.MonkeyPatch.context() as patch:
        # The kit's script calls `python`: that of its user's environment.
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert order("init", str(folder)) == 0
        assert order("check", str(folder)) == 0
        assert order("run", str(folder), "--trainer", "kit") == 0
        assert order("run", str(folder), "--trainer", "vlforge") == 0
        assert order("package", str(folder)) == 0
        assert order("package", str(folder), "--unofficial") == 0
        yield folder


def test_rows_are_described_anew_and_named_absolutely(contest):
    seed = {row["id"]: row for row in read(contest / SEED / "mgm_pretrain_stage_1_10k.jsonl")}
    rows = list(read(contest / "output/image_captioning_output/res_10k.jsonl"))
    assert [row["id"] for row in rows] == list(seed)
    assert all(row["text"] != seed[row["id"]]["text"] for row in rows)
    assert all(Path(image).is_absolute() and Path(image).is_file()
               for row in rows for image in row["images"])  # fmt: skip


def test_the_kits_conversion_gets_the_original_questions(contest):
    asked = json.loads((contest / SEED / "stage_1.json").read_text())
    path = contest / "output/image_captioning_output/res_10k.jsonl-200k.jsonl.json"
    rows = {row["id"]: row["conversations"] for row in json.loads(path.read_text())}
    assert len(rows) == ROWS
    for one in asked:
        assert rows[one["id"]][0]["value"] == one["conversations"][0]["value"]


def test_the_kit_left_checkpoints_logs_answers_and_its_script(contest):
    output = contest / "output"
    assert (output / "training_dirs" / FIRST / "mm_projector.bin").is_file()
    assert (output / "training_dirs" / NAME / "pytorch_model.bin").is_file()
    config = json.loads((output / "training_dirs" / NAME / "config.json").read_text())
    assert config["model_type"] == "mgm_gemma"
    assert "train_runtime" in (output / "training_dirs" / FIRST / "pretrain.log").read_text()
    assert (output / "train.sh").read_bytes() == (contest / SCRIPTS[0]).read_bytes()


def test_our_trainer_has_the_kits_settings_and_reuses_its_captions(contest):
    recipe = load_recipe(contest / "output/vlforge/default.yaml")
    stages = {name: stage.settings for name, stage in recipe.stages.items()}
    assert list(stages) == ["synthesise", "align", "instruct", "score", "report"]
    for name, batch, rate in (
        ("align", GLOBAL_BATCH["pretrain"], 1e-3),
        ("instruct", GLOBAL_BATCH["finetune"], 2e-5),
    ):
        one = stages[name]
        assert one["expect_global_batch"] == one["micro_batch"] * one["accumulation"] == batch
        assert one["optimiser"]["lr"] == rate
        assert one["seed"] == 1024
    assert stages["align"]["data"][0]["at_most"] == 5000
    graph = json.loads((contest / "output/vlforge/default/graph.json").read_text())
    assert {row["node"].split(".")[0]: row["reused"] for row in graph["nodes"]} == {
        "synthesise": True, "align": False, "instruct": False, "score": False, "report": False,
    }  # fmt: skip


def test_both_packages_have_the_members_and_say_whose_they_are(contest):
    kit, own = contest / "submit/submit.zip", contest / "submit/submit-unofficial.zip"
    shared = {
        "output/train.sh",
        f"output/training_dirs/{NAME}/finetuning.log",
        f"output/training_dirs/{FIRST}/pretrain.log",
        "solution/image_captioning.yaml",
        "solution/readme",
        "solution/requirements.txt",
    }
    results = f"output/eval_results/{NAME}/"
    for path, official in ((kit, True), (own, False)):
        with zipfile.ZipFile(path) as packed:
            names = set(packed.namelist())
        assert shared < names
        assert all(name.startswith(results) for name in names - shared)
        told = json.loads(path.with_suffix(".json").read_text())
        assert told["official"] is official
        assert told["trainer"] == ("kit" if official else "vlforge")
        assert {one["name"] for one in told["members"]} == names
        for found in told["scores"].values():
            assert 0 <= found["score"] <= 1
            assert found["missing"] == 0


def test_the_same_commands_again_run_nothing_and_write_the_same_bytes(contest, capsys):
    before = (contest / "submit/submit.zip").read_bytes()
    logs = [contest / "output/training_dirs" / FIRST / "pretrain.log", contest / "output/train.sh"]
    times = [path.stat().st_mtime_ns for path in logs]
    assert order("run", str(contest), "--trainer", "kit") == 0
    assert order("run", str(contest), "--trainer", "vlforge") == 0
    assert order("package", str(contest)) == 0
    assert [path.stat().st_mtime_ns for path in logs] == times
    assert (contest / "submit/submit.zip").read_bytes() == before
    shown = capsys.readouterr().out
    assert "0 stages run, 5 reused" in shown
    assert "Cost    measured" in shown


def test_a_training_that_fails_is_named_with_the_end_of_its_log(contest, capsys):
    rows = contest / "bad.jsonl"
    first = next(iter(read(contest / SEED / "mgm_pretrain_stage_1_10k.jsonl")))
    picture = contest / SEED / first["images"][0]
    # The kit's own copy of the launcher is not part of what is fixed: here it fails.
    launcher = contest / "toolkit/bin/deepspeed"
    kept = launcher.read_text()
    rows.write_text(json.dumps({**first, "images": [str(picture)]}) + "\n")
    launcher.write_text("#!/bin/sh\necho RuntimeError: the GPU is gone\nexit 1\n")
    words = ("run", str(contest), "--trainer", "kit", "--data", str(rows), "EXP_NAME=bad")
    assert order(*words) == 2
    said = capsys.readouterr().err
    assert "the kit's pretrain did not end well: RuntimeError: the GPU is gone" in said
    assert "Traceback" not in said
    launcher.write_text(kept)
    assert order(*words) == 0
    assert "--experiment bad" in capsys.readouterr().out
