"""`benchmarks/train.py` and `gpu_train.py` with models of two layers, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "benchmarks"


def said(script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )


@pytest.fixture
def parts(monkeypatch):
    """The scripts' own folder, where they look for their parts."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["mgm-2b/8 stage 1", "stage 2, mixture"])
def test_both_loops_learn_the_same_and_are_told_with_their_ratios(case):
    options = ["--tiny", "--steps", "3", "--batch", "4", "--repeats", "1", "--only", case]
    done = said("train.py", *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (one,) = told["cases"]
    assert one["losses_apart"] < told["tolerance"] == 1e-4
    assert one["rows"] == 12
    for loop in ("ours", "plain"):
        assert 0 < one[loop]["samples_per_cpu_s"][1] < 1e4
        assert 0 <= one[loop]["wait_share"] < 1
        assert one[loop]["kept_mib"] > 0
        assert one[loop]["peak_mib"] > 100
    assert told["median_cpu_ratios"] == {one["case"]: one["ratios"]["cpu"][1]}


def test_losses_that_differ_end_the_command(tmp_path, parts):
    import train as script
    from train_parts.cases import TINY

    (tmp_path / "ours.losses").write_text("[6.0, 5.0]")
    (tmp_path / "plain.losses").write_text("[6.0001, 5.0]")
    assert script._apart(TINY[0], tmp_path) == pytest.approx(1e-4 / 6, rel=1e-2)
    for other in ("[6.01, 5.0]", "[NaN, 5.0]"):
        (tmp_path / "plain.losses").write_text(other)
        with pytest.raises(script.Disagreement, match="mgm-2b/8 stage 1: losses differ"):
            script._apart(TINY[0], tmp_path)


def test_what_autograd_keeps_is_counted_while_it_is_kept(parts):
    from train_parts.measuring import Keeping

    weight = torch.nn.Linear(256, 256, bias=False)
    given = torch.randn(256, 256, requires_grad=True)  # a quarter of a MiB
    keeping = Keeping()
    keeping.leave_out(weight)
    with keeping.watching():
        first = weight(given)
        assert keeping.now == 2**18  # the input; its weight is no memory of a step
        second = weight(first).relu()
        assert keeping.now == 3 * 2**18
        second.sum().backward()
        del first, second
    assert (keeping.now, keeping.most) == (0, 3 * 2**18)


def test_made_rows_have_the_lengths_that_a_case_says(tmp_path, parts):
    from train_parts.cases import SMALL
    from train_parts.made import write_data

    mixture = SMALL[-1]
    write_data(mixture, tmp_path)
    rows = json.loads((tmp_path / "data.json").read_text())
    answers = [
        sum(len(turn["value"].split()) for turn in row["conversations"] if turn["from"] == "gpt")
        for row in rows
    ]
    assert answers == mixture.words()
    assert max(answers) > 4 * sorted(answers)[len(answers) // 2]
    pictures = [row["image"] for row in rows if "image" in row]
    assert 0 < len(rows) - len(pictures) < len(rows) / 4
    assert all((tmp_path / name).is_file() for name in pictures)


@pytest.mark.slow
def test_a_stage_at_real_sizes_is_measured_like_this():
    options = ["--tiny", "--steps", "3", "--warm", "1", "--threads", "1"]
    done = said("gpu_train.py", *options, "--case", "llava-1.5-7b/16 stage 1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["case"] == "llava-1.5-7b/16 stage 1"
    assert (told["batch"], told["steps"]) == (4, 2)
    assert 64 < told["supervised_per_sample"] + 64 < told["tokens_per_sample"] < 72
    assert told["samples_per_s"] > 0
    assert 0 <= told["wait_share"] < 1
    assert 0 < told["final_loss"] < 10


def test_real_cases_have_the_configurations_of_the_published_models(parts):
    from train_parts.real import REAL

    from vlforge.models.sizes import SIZES

    for case in REAL:
        assert case.config is SIZES[case.name.split(" ")[0]]
        assert case.files < case.batch * 60
        assert case.batch * 2 < case.files, "pictures of two batches are different ones"


@pytest.mark.slow
def test_without_a_gpu_one_line_says_that_nothing_was_measured():
    done = said("gpu_train.py", CUDA_VISIBLE_DEVICES="")
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["benchmark"] == "gpu_train"
    assert "no CUDA device" in told["not_measured"]
