"""`vlforge analyze`: a dataset or a recipe in, one page and tables out."""

from __future__ import annotations

import json

import pytest

from vlforge.cli import main

ROWS = ["a red circle above two blue squares", "no", "!!!! ???? !!!! ####", "one green triangle"]
RECIPE = """\
dataset_path: rows.jsonl
export_path: out/kept.jsonl
np: 1
percentiles: [0.05, 0.95]
process:
  - clean_links_mapper:
  - text_length_filter: {min_len: 5}
  - special_characters_filter: {max_ratio: 0.5}
"""
OURS = """\
stages:
  filter:
    kind: process
    dataset_path: $made/rows.jsonl
    process:
      - text_length_filter: {min_len: 5}
  made:
    kind: photos
    path: somewhere
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(ROWS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\nbroken\n")
    (tmp_path / "clean.yaml").write_text(RECIPE)
    (tmp_path / "ours.yaml").write_text(OURS)
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_dataset_needs_no_recipe(folder, capsys):
    assert main(["analyze", "rows.jsonl"]) == 0
    made = folder / "rows.analysis"
    assert names(made) == ["overall.csv", "overall.md", "report.html", "report_stats.jsonl"]
    shown = capsys.readouterr().out
    assert "5 rows without pictures: 1 row cannot be read" in shown
    assert "Page    rows.analysis/report.html" in shown
    assert len((made / "report_stats.jsonl").read_text().splitlines()) == 4


def test_a_recipe_is_asked_what_its_filters_would_drop(folder, capsys):
    assert main(["analyze", "clean.yaml", "-o", "look.html"]) == 0
    shown = capsys.readouterr().out
    assert "would keep 2 of 5 rows" in shown
    assert "Not run clean_links_mapper" in shown
    assert "Next    vlforge process clean.yaml" in shown
    stats = [json.loads(line) for line in (folder / "look_stats.jsonl").open()]
    assert set(stats[0]["__dj__stats__"]) == {"text_len", "special_char_ratio"}
    labels = [line.split(",")[0] for line in (folder / "overall.csv").open()]
    assert labels[1:] == ["count", "mean", "std", "min", "5%", "25%", "50%", "75%", "95%", "max"]


def test_by_default_the_page_lies_beside_the_export(folder):
    assert main(["analyze", "--config", "clean.yaml", "--np", "1"]) == 0
    assert names(folder / "out") == ["kept.analysis"]
    assert not (folder / "out" / "kept.jsonl").exists()


def test_a_recipe_can_be_asked_about_another_dataset(folder, capsys):
    (folder / "other.jsonl").write_text('{"text": "just this one row"}\n')
    assert main(["analyze", "other.jsonl", "--recipe", "clean.yaml", "-o", "x"]) == 0
    assert "would keep all of 1 row" in capsys.readouterr().out
    assert "report.html" in names(folder / "x")


def test_filters_of_a_stage_can_be_asked_about_a_dataset(folder, capsys):
    assert main(["analyze", "ours.yaml"]) == 2
    assert "vlforge analyze DATA --recipe ours.yaml" in capsys.readouterr().err
    assert main(["analyze", "rows.jsonl", "--recipe", "ours.yaml"]) == 0
    assert "would keep 3 of 5 rows" in capsys.readouterr().out


def test_settings_are_changed_as_for_process(folder, capsys):
    words = ["text_length_filter.min_len=30", "--percentiles", "[0.1]", "-o", "x.html"]
    assert main(["analyze", "clean.yaml", *words]) == 0
    assert "would keep 1 of 5 rows" in capsys.readouterr().out
    assert "10%," in (folder / "overall.csv").read_text()
    assert main(["analyze", "rows.jsonl", "text_key=id", "-o", "y.html"]) == 0
    assert ",1.0," in (folder / "overall.csv").read_text()


def test_a_first_look_says_that_it_is_one(folder):
    assert main(["analyze", "rows.jsonl", "--limit", "2", "-o", "x.html"]) == 0
    assert "the first 2 rows" in (folder / "x.html").read_text()
    assert main(["analyze", "rows.jsonl", "--sample", "3", "-o", "x.html"]) == 0
    assert "3 rows drawn at random" in (folder / "x.html").read_text()
    assert main(["analyze", "--auto", "--dataset_path", "rows.jsonl", "--auto_num", "1"]) == 0
    assert "the first row" in (folder / "rows.analysis" / "report.html").read_text()


def test_the_rows_with_their_statistics_are_exported_on_demand(folder):
    assert main(["analyze", "clean.yaml", "export_original_dataset=true"]) == 0
    rows = [json.loads(line) for line in (folder / "out" / "kept.jsonl").open()]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[1]["__dj__stats__"] == {"text_len": 2, "special_char_ratio": 0.0}


def test_charts_are_files_of_their_own_on_demand(folder):
    assert main(["analyze", "clean.yaml", "save_stats_in_one_file=false", "-o", "x/"]) == 0
    assert {"text_len-hist.svg", "special_char_ratio-hist.svg"} <= set(names(folder / "x"))
    assert main(["analyze", "clean.yaml", "save_stats_in_one_file=true", "-o", "y/"]) == 0
    assert not [n for n in names(folder / "y") if n.endswith(".svg")]


def test_the_rows_of_a_processed_folder_are_analyzed(folder, capsys):
    assert main(["process", "clean.yaml"]) == 0
    capsys.readouterr()
    assert main(["analyze", "out/kept.process", "-o", "x.html"]) == 0
    assert "2 rows without pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "nothing to analyze"),
        (["none.jsonl"], "none.jsonl: no such dataset or recipe"),
        (["none.yaml"], "none.yaml: no such recipe"),
        (["rows.jsonl", "--recipe", "none.yaml"], "none.yaml: no such recipe"),
        (["rows.jsonl", "--recipe", "clean.yaml", "--config", "clean.yaml"], "two recipes"),
        (["clean.yaml", "percentiles=[7]"], "percentiles: 7 is no share"),
        (["clean.yaml", "text_length_filter.min_lenn=7"], "min_len"),
        (["rows.jsonl", "text_kee=x"], "did you mean 'text_key'?"),
        (["rows.jsonl", "text_key=x"], "name the text field by text_key"),
        (["clean.yaml", "dataset_path=none.jsonl"], "none.jsonl: no such dataset"),
        (
            ["clean.yaml", "export_path=rows.jsonl", "export_original_dataset=true", "-o", "x/"],
            "export_path is the dataset itself",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder, words, part, capsys):
    before, data = names(folder), (folder / "rows.jsonl").read_bytes()
    assert main(["analyze", *words]) == 2
    shown = capsys.readouterr().err
    assert part in shown
    assert shown.count("error: ") == 1
    assert names(folder) == before
    assert (folder / "rows.jsonl").read_bytes() == data
