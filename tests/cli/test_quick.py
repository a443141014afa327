"""`process` read without the parser means what it means to the parser."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

from vlforge.cli import main
from vlforge.cli.quick import split_options
from vlforge.cli.start import build_app

READ = [
    ["a.yaml"],
    ["a.yaml", "np=8", "--out", "there"],
    ["--config", "a.yaml", "--np", "8", "--dataset_path", "in.jsonl", "--export_path=out.jsonl"],
    ["--config=a.yaml", "--debug", "--limit", "10", "f.min=-1"],
    ["a.yaml", "--f.max", "0.5", "--sample=3", "--out=x", "--out", "y"],
    ["a.yaml", "--limited", "3", "--config_all", "b"],
    ["--out", "--strange", "a.yaml"],
    ["a.yaml", "b", "=", "--", "c"][:3],
]
LEFT = [
    [], ["--help"], ["a.yaml", "-h"], ["a.yaml", "--limit"], ["a.yaml", "--limit", "0"],
    ["--limit=ten", "a.yaml"], ["--sample", "-3", "a.yaml"], ["a.yaml", "--config"],
    ["a.yaml", "--out="], ["a.yaml", "--", "--config"], ["a.yaml", "-x"],
]  # fmt: skip


@pytest.mark.parametrize("given", READ, ids=" ".join)
def test_words_and_options_are_those_of_the_parser(given):
    command = typer.main.get_command(build_app()).commands["process"]
    parsed = {k: v for k, v in command.make_context("process", list(given)).params.items() if v}
    words, options = split_options(given)
    assert {"words": tuple(words), **options} == {**parsed, "words": tuple(parsed["words"])}


@pytest.mark.parametrize("given", LEFT, ids=" ".join)
def test_what_needs_the_parser_is_left_to_it(given):
    assert split_options(given) is None


def test_a_mistake_is_one_line_whoever_reads_it(tmp_path, capsys):
    recipe = tmp_path / "clean.yaml"
    recipe.write_text("dataset_path: .\nprocess:\n  - text_length_filtre: {min_len: 5}\n")
    assert main(["process", str(recipe)]) == 2
    assert "did you mean 'text_length_filter'" in capsys.readouterr().err
    assert main(["process", str(recipe), "--limit", "0"]) == 2
    assert "--limit" in capsys.readouterr().err


def test_ten_rows_need_neither_the_parser_nor_pydantic_nor_numpy(tmp_path):
    rows = [{"id": str(n), "text": f"a red circle above {n} blue squares"} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "clean.yaml").write_text(
        "dataset_path: rows.jsonl\nexport_path: kept.jsonl\nprocess:\n"
        "  - text_length_filter: {min_len: 5}\n  - character_repetition_filter: {max_ratio: 0.9}\n"
    )
    code = (
        "import sys; from vlforge.cli import main; code = main(['process', 'clean.yaml']); "
        "print(code, *{'typer', 'pydantic', 'numpy', 'PIL', 'rich'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "0"
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 10


def test_a_dropped_row_with_half_a_character_in_its_id_is_shown(tmp_path, capfd):
    (tmp_path / "a.jsonl").write_text('{"id": "\\ud800x", "text": "b"}\n{"text": "long enough"}\n')
    recipe = tmp_path / "r.yaml"
    recipe.write_text("dataset_path: a.jsonl\nprocess: [{text_length_filter: {min_len: 5}}]\n")
    assert main(["process", str(recipe), "--out", str(tmp_path / "out")]) == 0
    assert "\\ud800x" in capfd.readouterr().out
