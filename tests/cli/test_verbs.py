"""The command line as a person meets it: help, mistakes, exit codes."""

from __future__ import annotations

import os
import re

import pytest

from vlforge.cli import main

VERBS = ["quickstart", "run", "plan", "check", "process", "analyze", "view", "convert", "repair",
         "convert-model", "merge", "mix", "split", "download", "fetch", "tool", "train",
         "watch", "chat", "web", "predict",
         "report", "why", "eval run", "eval score", "eval export", "list ops",
         "list kinds", "list prompts"]  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_bare_command_shows_every_verb_and_succeeds(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {verb.split()[0]} ", shown, re.M) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_shows_examples_of_it(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"vlforge {verb}" in shown.split("Examples:")[1]


def test_every_line_of_help_fits_a_hundred_columns(capsys):
    for verb in ["", *VERBS]:
        main([*verb.split(), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["rum", "x.yaml"], "'run'"),
        (["proces"], "'process'"),
        (["run", "x.yaml", "--sede", "3"], "--seeds"),
        (["list", "opss"], "'ops'"),
    ],
)
def test_unknown_words_name_the_nearest_known(words, nearest, capsys):
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert nearest in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "none.yaml"], "none.yaml: no such recipe"),
        (["run", "."], ".: is a folder"),
        (["plan", "recipes/quikstart.yaml"], "did you mean"),
        (["process"], "no recipe given"),
        (["process", "a.yaml", "--config", "b.yaml"], "two recipes given"),
        (["chat", "nowhere"], "nowhere: no such model folder"),
        (["report", "nowhere"], "nowhere: no such folder"),
        (["why", "7"], "no run under"),
        (["watch"], "no run under"),
        (["watch", "nowhere"], "no run here"),
        (["why", "7", "nowhere"], "no processed dataset here"),
        (["eval", "score", "nowhere"], "nowhere: no such folder"),
        (["run", "x.yaml", "--seeds", "0"], "--seeds"),
        (["run"], "recipe"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, part, capsys):
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert part in shown.err
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


def test_a_misspelt_shipped_recipe_names_the_right_one(tmp_path, capsys):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "photos.yaml").write_text("name: photos\n")
    assert main(["plan", "recipes/fotos.yaml"]) == 2
    assert "did you mean 'recipes/photos.yaml'?" in capsys.readouterr().err


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"vlforge \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vlforge.cli.run.our_recipe", stop)
    assert main(["run", "my recipe.yaml", "a.b=1"]) == 130
    assert "vlforge run 'my recipe.yaml' a.b=1" in capsys.readouterr().out


def test_a_fault_of_ours_is_one_line_and_says_how_to_see_more(monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("vlforge.cli.run.our_recipe", fail)
    monkeypatch.delenv("VLFORGE_DEBUG", raising=False)
    assert main(["run", "x.yaml"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ZeroDivisionError: division by zero; ")
    assert "VLFORGE_DEBUG=1" in shown
    assert shown.count("\n") == 1
    monkeypatch.setenv("VLFORGE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["run", "x.yaml"])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(28, "No space left on device"), "error: No space left on device; free some space"),
        (
            PermissionError(13, "Permission denied", "runs"),
            "error: runs: Permission denied; name a",
        ),
    ],
)
def test_a_place_that_cannot_be_used_is_named_with_its_remedy(monkeypatch, fault, said, capsys):
    def fail(*_):
        raise fault

    monkeypatch.setattr("vlforge.cli.run.our_recipe", fail)
    assert main(["run", "x.yaml"]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_no_color_leaves_no_escape_codes(monkeypatch, capsys):
    monkeypatch.setattr("vlforge.cli.show.is_terminal", lambda stream: True)
    monkeypatch.setenv("NO_COLOR", "1")
    main(["run", "none.yaml"])
    assert "\033" not in capsys.readouterr().err
    monkeypatch.delenv("NO_COLOR")
    main(["run", "none.yaml"])
    assert "\033" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    import subprocess
    import sys

    command = f"{sys.executable} -m vlforge --help | true"
    shell = ["bash", "-c", f"set -o pipefail; {command}"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, env=os.environ)
    assert "Traceback" not in done.stderr
    assert done.stderr == ""
