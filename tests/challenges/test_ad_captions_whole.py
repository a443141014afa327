"""The ad-caption contest in small, as its user types it: from the text file to captions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from vlforge.challenges.ad_captions.layout import Kit
from vlforge.challenges.ad_captions.packing import NEEDED
from vlforge.challenges.ad_captions.running import scores, stage_folder
from vlforge.cli.start import main
from vlforge.miniatures.make import make_miniature

pytestmark = pytest.mark.slow
KIT = ["challenge", "ad-captions"]
SHELL = shutil.which("dash") or "sh"
FEW = ["max_steps=2", "gradient_accumulation_steps=2", "stages.said.max_new_tokens=16",
       "stages.score.max_new_tokens=16"]  # fmt: skip


class Unpacked(NamedTuple):
    """A package in an empty folder, and a Python that has what it requires and no VLForge."""

    folder: Path
    python: Path
    done: subprocess.CompletedProcess[str]
    output: Path


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Kit:
    """The contest's folder after `init`, `check`, both trainings and `package`."""
    folder = tmp_path_factory.mktemp("contest") / "ads"
    make_miniature("mgen_vl", folder)
    assert main([*KIT, "init", str(folder)]) == 0
    assert main([*KIT, "check", str(folder)]) == 0
    assert main([*KIT, "run", str(folder), *FEW, "learning_rate=1e-2"]) == 0
    assert main([*KIT, "run", str(folder), "--mode", "full", *FEW]) == 0
    assert main([*KIT, "package", str(folder), "--mode", "lora"]) == 0
    return Kit(folder)


@pytest.fixture(scope="module")
def unpacked(kit, tmp_path_factory) -> Unpacked:
    """The package unzipped and run by a shell that is no bash, far from this checkout."""
    folder = tmp_path_factory.mktemp("judge") / "empty"
    with zipfile.ZipFile(kit.submit / "submission.zip") as archive:
        archive.extractall(folder)
    python = fresh_python(tmp_path_factory.mktemp("fresh"))
    output = folder.parent / "said.tsv"
    command = [SHELL, "run.sh", str(kit.data / "test.txt"), str(output), "weights", str(python)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )
    return Unpacked(folder, python, done, output)


def fresh_python(folder: Path) -> Path:
    """An environment of its own with what requirements.txt names, what that needs, and no more.

    Nothing is installed: its libraries are links to the ones that are here.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (inside,) = folder.glob("lib/python*/site-packages")
    for name in required(set(NEEDED)):
        distribution = importlib.metadata.distribution(name)
        tops = {Path(file).parts[0] for file in distribution.files or ()}
        for top in tops - {"..", "bin", "__pycache__"}:
            if not (inside / top).exists():
                (inside / top).symlink_to(distribution.locate_file(top))
    return folder / "bin" / "python"


def required(names: set[str]) -> set[str]:
    """These distributions and all that they require, where it is installed."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        try:
            needs = [] if name in found else importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting |= {re.split(r"[^\w.-]", one)[0] for one in needs if "extra ==" not in one}
    return found


def test_both_modes_leave_the_contests_weights(kit):
    base = json.loads((kit.base() / "config.json").read_text())
    for mode in ("lora", "full"):
        whole = stage_folder(kit, mode, "whole")
        assert list(whole.glob("*.pdparams"))
        told = json.loads((whole / "config.json").read_text())
        assert {key: told[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size")} == {
            key: base[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size")
        }
        assert {"cider", "bleu4", "rouge_l"} <= set(scores(kit, mode))
        said = (stage_folder(kit, mode, "said") / "val.tsv").read_text().splitlines()
        assert len(said) == len(json.loads(kit.val.read_text()))


def test_what_was_trained_is_what_should_be(kit):
    from vlforge.checkpoints.paddle import read_weights

    def moved(mode: str) -> set[str]:
        after = read_weights(stage_folder(kit, mode, "whole"))
        before = read_weights(kit.base())
        assert after.keys() == before.keys()
        return {name for name in before if not before[name].read().equal(after[name].read())}

    lora = moved("lora")
    assert lora
    ends = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.w1.weight", "mlp.w2.weight")
    assert all(name.startswith("transformer.llm.") and name.endswith(ends) for name in lora)
    assert not [name for name in moved("full") if name.startswith("visual.vit.")]


def test_the_same_command_again_does_nothing_anew(kit, capsys):
    assert main([*KIT, "run", str(kit.folder), *FEW, "learning_rate=1e-2"]) == 0
    said = capsys.readouterr().out
    assert "0 stages run" in said
    assert "(there already)" in said
    assert "Scores  cider" in said


def test_the_package_runs_alone_and_answers_every_line(kit, unpacked):
    assert unpacked.done.returncode == 0, unpacked.done.stderr[-2000:]
    asked = (kit.data / "test.txt").read_text().splitlines()
    said = unpacked.output.read_text().splitlines()
    assert [row.split("\t")[0] for row in said] == [row.split("\t")[0] for row in asked]
    assert all(len(row.split("\t")) == 2 and row.split("\t")[1] for row in said)
    assert "1 damaged, 1 without an answer" in unpacked.done.stdout


def test_the_package_says_what_predict_says(kit, unpacked, tmp_path):
    weights = stage_folder(kit, "lora", "whole")
    words = ["predict", str(weights), str(kit.data / "test.txt"), str(tmp_path / "said.tsv")]
    assert main(words) == 0
    assert (tmp_path / "said.tsv").read_bytes() == unpacked.output.read_bytes()


def test_the_package_uses_its_own_code(unpacked):
    look = "import vlforge, torch; print(vlforge.__file__)"
    command = [str(unpacked.python), "-c", look]
    how = {"env": {"PATH": os.environ["PATH"]}, "capture_output": True, "text": True}
    place = subprocess.run(command, cwd=unpacked.folder / "src", **how).stdout.strip()
    assert Path(place).is_relative_to(unpacked.folder)
    elsewhere = subprocess.run(command, cwd=unpacked.folder, **how)
    assert "No module named 'vlforge'" in elsewhere.stderr


def test_own_source_makes_an_official_package(kit, tmp_path, capsys):
    command = [*KIT, "package", str(kit.folder), "--without-weights"]
    assert main([*command, "--src", str(kit.folder / "src")]) == 0
    assert "VLForge's predict.py" not in capsys.readouterr().err
    told = json.loads((kit.submit / "submission_without_weights.json").read_text())
    assert told["official"] is True
    names = [member["name"] for member in told["members"]]
    assert names == ["requirements.txt", "run.sh", "src/predict.py"]
    with zipfile.ZipFile(kit.submit / "submission_without_weights.zip") as archive:
        archive.extractall(tmp_path)
    output = tmp_path / "out.tsv"
    words = [str(kit.data / "test.txt"), str(output), str(kit.base()), sys.executable]
    subprocess.run([SHELL, "run.sh", *words], cwd=tmp_path, check=True, timeout=600)
    asked = (kit.data / "test.txt").read_text().splitlines()
    assert len(output.read_text().splitlines()) == len(asked)


def test_cleaning_frees_the_trained_weights_that_were_written_as_paddles(kit, capsys):
    run = str(kit.run_dir("full"))
    assert main(["clean", run, "--yes"]) == 0
    assert "whole went on from it" in capsys.readouterr().out
    assert not list(stage_folder(kit, "full", "tune").glob("*.safetensors"))
    assert list(stage_folder(kit, "full", "whole").glob("*.pdparams"))
    assert main([*KIT, "run", str(kit.folder), "--mode", "full", *FEW]) == 0
    assert "0 stages run" in capsys.readouterr().out
