"""Every recipe with a tiny size runs from raw files to scores, as a user types it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vlforge.cli.start import main
from vlforge.recipe.load import load_recipe
from vlforge.recipe.source import parse_value

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes"
SWITCHES = re.compile(r"(?m)^    # (?:Leaner|Ours),.*\n((?:    # .*\n)+)")
"""The block of a stage with what can be switched on, as comments."""


SAME = ("template", "train", "lora", "vision_lora", "group", "tokenizer", "compat", "loss_mean")
"""What of a stage is the published one's in every size."""


def with_miniature() -> list[str]:
    """Recipes whose tiny size begins with a made folder."""
    found = []
    for path in sorted(FOLDER.rglob("*.yaml")):
        sizes = path.read_text(encoding="utf-8").partition("\nsizes:")[2]
        if "\n  tiny:" in sizes and "kind: miniature" in sizes:
            found.append(path.relative_to(FOLDER).with_suffix("").as_posix())
    return found


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def numbers(value) -> list[float]:
    """Every number in nested results."""
    if isinstance(value, dict):
        return [n for one in value.values() for n in numbers(one)]
    if isinstance(value, list):
        return [n for one in value for n in numbers(one)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [float(value)] if is_number else []


@pytest.mark.parametrize("name", with_miniature())
def test_tiny_and_real_are_the_same_stages(name):
    real = load_recipe(FOLDER / f"{name}.yaml", size="real")
    tiny = load_recipe(FOLDER / f"{name}.yaml", size="tiny")
    assert {*real.stages, "made"} <= set(tiny.stages)
    assert "$made/" in json.dumps([body.settings for body in tiny.stages.values()])
    for one, body in real.stages.items():
        for key in SAME if body.kind == "train" else ():
            ours, theirs = (dict(size.stages[one].settings) for size in (tiny, real))
            assert ours.get(key) == theirs.get(key), (one, key)
        if body.kind == "train":
            rates = [size.stages[one].settings["optimiser"]["lr"] for size in (tiny, real)]
            assert rates[0] == rates[1]


@pytest.mark.parametrize("name", with_miniature())
def test_switches_that_stand_as_comments_are_settings(name):
    path = FOLDER / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    block = SWITCHES.search(text)
    stage = re.findall(r"(?m)^  (\w+):", text[: block.start()])[-1]
    found = re.findall(r"(?m)^    # ([a-z_]+): (.*?)(?:  +#.*)?$", block[1])
    assert len(found) > 2
    for key, value in found:
        switched = load_recipe(path, [f"stages.{stage}.{key}={value}"])
        assert switched.stages[stage].settings[key] == parse_value(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", with_miniature())
def test_the_tiny_size_runs_from_files_to_scores(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    code = main(["run", str(FOLDER / f"{name}.yaml"), "--size", "tiny", "--out", "run"])
    said = capfd.readouterr()
    assert code == 0, said.err[-2000:]
    assert "Traceback" not in said.err
    run = tmp_path / "run"
    recipe = load_recipe(FOLDER / f"{name}.yaml", size="tiny")
    for one, body in recipe.stages.items():
        folders = [path for path in run.iterdir() if re.match(rf"\d+-{one}(\W|$)", path.name)]
        assert folders, one
        for folder in folders:
            assert (folder / "done.json").is_file()
            if body.kind == "train":
                losses = [step["loss"] for step in lines(folder / "metrics.jsonl")]
                assert losses
                assert all(math.isfinite(loss) and loss > 0 for loss in losses)
            if body.kind == "evaluate":
                metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
                assert len(metrics) == len(body.settings["benchmarks"])
                assert all(math.isfinite(number) for number in numbers(metrics))
                answers = [lines(path) for path in folder.glob("predictions.*.jsonl")]
                assert answers
                assert all(answers)
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")[:200].lower()


@pytest.mark.slow
def test_the_kit_of_better_synth_runs_under_bash(tmp_path, monkeypatch):
    from vlforge.checkpoints.index import read_checkpoint
    from vlforge.miniatures.make import make_miniature

    kit = make_miniature("better_synth", tmp_path / "kit")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = os.environ | {"PATH": tools, "CUDA_VISIBLE_DEVICES": ""}
    script = kit / "toolkit" / "train_mgm_2b_stage_1.sh"

    def run() -> str:
        return subprocess.run(
            ["bash", script.name], cwd=script.parent, env=here,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    whole = script.read_text(encoding="utf-8")
    script.write_text(
        whole.replace("PRETRAIN_BATCH_SIZE_PER_GPU=4", "PRETRAIN_BATCH_SIZE_PER_GPU=5")
    )
    assert "[ERROR] The global batch size of pretraining is not 256" in run()
    assert list((kit / "output").iterdir()) == []
    script.write_text(whole)
    assert "Accuracy: " in run()
    output = kit / "output"
    for stage, log in (("Pretrain", "pretrain.log"), ("Finetune", "finetuning.log")):
        text = (output / f"training_dirs/MGM-2B-{stage}-default" / log).read_text(encoding="utf-8")
        assert re.search(r"(?m)^\{'loss': [\d.]+, 'learning_rate': [\d.e-]+, 'epoch': 1.0\}$", text)
        assert "'train_loss'" in text
    trained = read_checkpoint(output / "training_dirs/MGM-2B-Finetune-default")
    trained.check()
    assert trained.layout == "mgm"
    results = output / "eval_results/MGM-2B-Finetune-default"
    assert len(lines(results / "textvqa/answers/merge.jsonl")) == 6
    assert len(lines(next((results / "mmbench/answers").rglob("*.jsonl")))) == 16
    assert next((results / "mmbench/answers_upload").rglob("*.xlsx")).stat().st_size > 1000
    assert (output / "train.sh").read_text(encoding="utf-8") == whole
