"""`vlforge process`: words of the command line, a Data-Juicer recipe run end to end."""

from __future__ import annotations

import json

import pytest

from vlforge.cli import main
from vlforge.cli.cleaning import split_words
from vlforge.types import RecipeError

ROWS = ["a red circle above two blue squares", "no", "!!!! ???? !!!! ####", "one green triangle"]
RECIPE = """\
dataset_path: rows.jsonl
export_path: kept.jsonl
np: 1
use_cache: false
process:
  - text_length_filter: {min_len: 5}
  - special_characters_filter: {max_ratio: 0.5}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(ROWS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "clean.yaml").write_text(RECIPE)
    return tmp_path


def kept(folder, name="kept.jsonl"):
    return [json.loads(line)["id"] for line in (folder / name).read_text().splitlines()]


@pytest.mark.parametrize(
    ("words", "recipe", "changes"),
    [
        (["a.yaml", "np=8"], "a.yaml", [("np", "8")]),
        (["--np", "8", "a.yaml"], "a.yaml", [("np", "8")]),
        (["--np=8", "--export-path", "b"], None, [("np", "8"), ("export_path", "b")]),
        (["--debug", "--np", "2"], None, [("debug", "true"), ("np", "2")]),
        (["a.yaml", "--debug"], "a.yaml", [("debug", "true")]),
        (["f.min=-1", "--f.max", "-0.5"], None, [("f.min", "-1"), ("f.max", "-0.5")]),
        (["--path", "a=b.jsonl"], None, [("path", "a=b.jsonl")]),
        (
            ["--custom-operator-paths", "a.py", "b", "c.yaml"],
            "c.yaml",
            [("custom_operator_paths", "[a.py, b]")],
        ),
    ],
)
def test_options_and_assignments_mean_the_same(words, recipe, changes):
    assert split_words(words) == (recipe, changes)


def test_a_second_recipe_is_refused():
    with pytest.raises(RecipeError, match=r"'b\.yaml' is neither"):
        split_words(["a.yaml", "b.yaml"])


def test_a_data_juicer_recipe_writes_rows_statistics_and_reasons(folder, capsys):
    assert main(["process", "clean.yaml"]) == 0
    assert kept(folder) == ["0", "3"]
    stats = (folder / "kept_stats.jsonl").read_text().splitlines()
    assert len(stats) == 2
    dropped = [json.loads(line) for line in (folder / "kept.process" / "dropped.jsonl").open()]
    assert [(d["id"], d["op"]) for d in dropped] == [
        ("1", "text_length_filter"),
        ("2", "special_characters_filter"),
    ]
    assert "2 of 4 rows" in capsys.readouterr().out


def test_the_data_juicer_command_line_does_the_same(folder):
    words = ["--config", "clean.yaml", "--np", "1", "--export_path", "other.jsonl"]
    assert main(["process", *words, "--text_length_filter.min_len", "30"]) == 0
    assert kept(folder, "other.jsonl") == ["0"]


def test_a_second_call_gives_the_same_file(folder):
    assert main(["process", "clean.yaml"]) == 0
    first = (folder / "kept.jsonl").read_bytes()
    assert main(["process", "clean.yaml"]) == 0
    assert (folder / "kept.jsonl").read_bytes() == first


def test_changed_settings_are_not_answered_from_the_last_call(folder):
    assert main(["process", "clean.yaml"]) == 0
    assert main(["process", "clean.yaml", "text_length_filter.min_len=30"]) == 0
    assert kept(folder) == ["0"]


def test_a_first_look_takes_some_rows(folder):
    assert main(["process", "clean.yaml", "--limit", "1"]) == 0
    assert kept(folder) == ["0"]
    assert main(["process", "clean.yaml", "--sample", "3", "seed=5"]) == 0
    funnel = json.loads((folder / "kept.process" / "funnel.json").read_text())
    assert funnel["rows_in"] == 3


def test_settings_are_shown_saved_and_run_again(folder, capsys):
    words = ["export_path=a.json", "export_shard_size=60", "project_name=off", "open_tracer=true"]
    assert main(["process", "clean.yaml", *words]) == 0
    shown = capsys.readouterr()
    assert "export_shard_size  60" in shown.out
    assert "process 1          text_length_filter min_len 5" in shown.out
    assert "text_keys" not in shown.out
    assert "note: without effect here: use_cache" in shown.err
    first = {path.name: path.read_bytes() for path in folder.glob("a-*.json")}
    assert set(first) == {"a-00-of-02.json", "a-01-of-02.json"}
    for path in folder.glob("a-*.json"):
        path.unlink()
    assert main(["process", "a.process/recipe.yaml"]) == 0
    assert {path.name: path.read_bytes() for path in folder.glob("a-*.json")} == first
    assert (folder / "a.process/trace/sample_trace-text_length_filter.jsonl").exists()


def test_several_datasets_and_formats_become_one(folder):
    (folder / "more.csv").write_text("id,text\nx,a blue triangle\n")
    words = ["dataset_path=1 rows.jsonl 2 more.csv", "export_path=all.parquet"]
    assert main(["process", "clean.yaml", *words]) == 0
    from pyarrow import parquet

    rows = parquet.read_table(folder / "all.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["0", "3", "x", "x"]


def test_paths_of_a_dataset_beside_the_recipe_are_found(folder, monkeypatch):
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert main(["process", "../clean.yaml"]) == 0
    assert kept(folder / "elsewhere") == ["0", "3"]


def test_relative_picture_paths_may_stay_as_they_are(folder):
    row = {"id": "p", "text": "a picture of something", "images": ["p/1.jpg"]}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["process", "clean.yaml", "absolute_paths=false"]) == 0
    assert json.loads((folder / "kept.jsonl").read_text())["images"] == ["p/1.jpg"]
    assert main(["process", "clean.yaml"]) == 0
    absolute = [str(folder / "p/1.jpg")]
    assert json.loads((folder / "kept.jsonl").read_text())["images"] == absolute


@pytest.mark.parametrize("strict", ["strict=true", "skip_op_error=false"])
def test_a_strict_run_ends_at_the_first_bad_row_in_one_line(folder, strict, capsys):
    with (folder / "rows.jsonl").open("a") as file:
        file.write("{broken\n")
    assert main(["process", "clean.yaml", strict]) == 2
    shown = capsys.readouterr().err
    assert shown.count("error: ") == 1
    assert "broken line" in shown


def test_a_wrong_text_field_names_the_fields_there_are(folder, capsys):
    assert main(["process", "clean.yaml", "text_keys=caption"]) == 2
    shown = capsys.readouterr().err
    assert "no field 'caption'; it has 'id', 'text'" in shown
    assert shown.count("error: ") == 1


def test_an_export_into_the_datasets_folder_is_noted(folder, capsys):
    (folder / "data").mkdir()
    (folder / "rows.jsonl").rename(folder / "data" / "rows.jsonl")
    assert main(["process", "clean.yaml", "dataset_path=data", "export_path=data/kept.jsonl"]) == 0
    assert "the next run would read it too" in capsys.readouterr().err


OWN_OPERATOR = """\
from data_juicer.ops.base_op import OPERATORS, Mapper


@OPERATORS.register_module("shout_mapper")
class ShoutMapper(Mapper):
    def process_single(self, sample):
        sample[self.text_key] = sample[self.text_key].upper()
        return sample
"""


def test_an_operator_of_ones_own_runs_unchanged(folder):
    (folder / "own.py").write_text(OWN_OPERATOR)
    (folder / "own.yaml").write_text(RECIPE + "  - shout_mapper:\n")
    words = ["--config", "own.yaml", "--custom-operator-paths", "own.py"]
    assert main(["process", *words]) == 0
    assert json.loads((folder / "kept.jsonl").read_text().splitlines()[0])["text"].isupper()


def test_help_shows_examples(capsys):
    assert main(["process", "--help"]) == 0
    assert "vlforge process clean.yaml --limit 1000" in capsys.readouterr().out


def test_why_tells_what_happened_to_a_row(folder, capsys):
    main(["process", "clean.yaml"])
    capsys.readouterr()
    assert main(["why", "1", "kept.process"]) == 0
    assert "dropped by text_length_filter" in capsys.readouterr().out
    assert main(["why", "3", "kept.process"]) == 0
    assert "kept" in capsys.readouterr().out
    assert main(["why", "99", "kept.process"]) == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["dataset_path=none.jsonl"], "none.jsonl: no such dataset"),
        (["export_paht=x"], "did you mean 'export_path'?"),
        (["np=many"], "np"),
        (["text_length_filter.min_lenn=3"], "min_len"),
        (["text_lenght_filter.min_len=3"], "did you mean 'text_length_filter'?"),
        (["executor_type=spark"], "executor_type"),
        (["export_path=kept.txt"], "end it in .jsonl, .json or .parquet"),
        (["export_type=lance"], "export_type is 'lance'"),
        (["dataset_path=0.5 rows.jsonl 1 none.jsonl"], "none.jsonl: no such dataset"),
        (["--limit", "0"], "limit"),
        (["export_path=."], "export_path is a folder"),
        (["export_path=rows.jsonl"], "export_path is the dataset itself"),
        (["export_path=/dev/null"], "no regular file"),
        (["export_path=/proc/none/kept.jsonl"], "/proc/none"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_nothing(folder, words, part, capsys):
    before = sorted(folder.iterdir())
    assert main(["process", "clean.yaml", *words]) == 2
    shown = capsys.readouterr().err
    assert part in shown
    assert shown.count("error: ") == 1
    assert sorted(folder.iterdir()) == before


def test_an_unknown_operator_is_named_with_file_and_line(folder, capsys):
    (folder / "clean.yaml").write_text(RECIPE.replace("text_length_filter", "text_lenght_filter"))
    assert main(["process", "clean.yaml"]) == 2
    shown = capsys.readouterr().err
    assert "clean.yaml:6" in shown
    assert "'text_length_filter'" in shown


def test_a_recipe_that_is_no_yaml_is_named_with_its_line(folder, capsys):
    (folder / "clean.yaml").write_text("process: [\nnp: 1\n")
    assert main(["process", "clean.yaml"]) == 2
    assert "clean.yaml:3: not valid YAML" in capsys.readouterr().err
