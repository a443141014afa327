"""`vlforge run`, `plan`, `train`: a recipe of small outside stages, as a person runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.signals import hears_ctrl_c
from tests.structure.tree import ROOT
from vlforge.cli import main

RECIPE = """\
name: letters
stages:
  first: {kind: tests.runs.letters_kind, text: a, pause_s: 0}
  second: {kind: tests.runs.letters_kind, text: b, source: $first/letters.txt}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "letters.yaml").write_text(RECIPE)
    return tmp_path


def test_a_run_says_what_was_done_and_where_it_is(folder, capsys):
    assert main(["run", "letters.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "2 stages run, 0 reused" in shown
    assert "Result  runs/letters" in shown
    assert (folder / "runs/letters/02-second.s0/letters.txt").read_text() == "a0b0"


def test_the_same_command_again_reuses_and_a_change_runs_what_it_reaches(folder, capsys):
    main(["run", "letters.yaml"])
    assert main(["run", "letters.yaml"]) == 0
    assert "0 stages run, 2 reused" in capsys.readouterr().out
    assert main(["run", "letters.yaml", "stages.second.text=c"]) == 0
    assert "1 stages run, 1 reused" in capsys.readouterr().out


def test_plan_runs_nothing(folder, capsys):
    assert main(["plan", "letters.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 stages to run" in shown
    assert "second.s0" in shown
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["stages.second.texxt=c"], "did you mean 'text'?"),
        (["stages.secnd.text=c"], "did you mean 'second'?"),
        (["--until", "secnd"], "did you mean 'second'?"),
        (["--arms", "raw"], "no arm 'raw'"),
        (["--size", "tiny"], "no size 'tiny'"),
        (["text"], "not of the form key=value"),
        (["--map", "here"], "OLD=NEW"),
        (["stages.first.fail=error"], "row 7"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, words, part, capsys):
    assert main(["run", "letters.yaml", *words]) == 2
    shown = capsys.readouterr().err.splitlines()
    errors = [line for line in shown if line.startswith("error: ")]
    assert len(errors) == 1
    assert part in errors[0]


def test_train_without_training_stages_says_what_to_type(folder, capsys):
    assert main(["train", "letters.yaml"]) == 2
    assert "vlforge run letters.yaml" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(folder):
    command = [sys.executable, "-m", "vlforge", "run", "letters.yaml"]
    slow = [*command, "stages.second.pause_s=6000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(slow, preexec_fn=hears_ctrl_c, **pipes) as run:
        first = folder / "runs/letters/01-first.s0"
        second = folder / "runs/letters/ran.txt"
        end = time.monotonic() + 300
        try:
            while not (first.exists() and second.read_text().count("\n") == 2):
                assert run.poll() is None
                assert time.monotonic() < end, "the second stage never began"
                time.sleep(0.1)
            os.kill(run.pid, signal.SIGINT)
            out, err = run.communicate(timeout=300)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "vlforge run letters.yaml stages.second.pause_s=6000" in out
    assert "Traceback" not in err
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 stages run, 1 reused" in done.stdout
