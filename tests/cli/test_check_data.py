"""`vlforge check DATA` and `vlforge repair`: what they say, write, and exit with."""

from __future__ import annotations

import base64
import json

import pytest
import typer

from tests.engine.made import write_picture, write_rows
from vlforge.cli import main
from vlforge.cli import repair as repairing

QUESTION = "<image>\nWhat stands on the table here?"


def llava(number, image, *turns):
    said = [{"from": "human" if k % 2 == 0 else "gpt", "value": t} for k, t in enumerate(turns)]
    row = {"id": f"r{number}", "conversations": said}
    return row | ({"image": image} if image else {})


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with three pictures."""
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        write_picture(tmp_path / f"{k}.jpg", (90 + 9 * k, 80), 30 * k)
    return tmp_path


def told(folder):
    found = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    return found, {one["kind"]: one for one in found["findings"]}


def test_sound_data_passes(here, capsys):
    write_rows(here / "rows.jsonl", [llava(k, f"{k}.jpg", QUESTION, f"Cup {k}.") for k in range(3)])
    assert main(["check", "rows.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "rows.jsonl: 3 rows, 3 pictures, 0 errors, 0 warnings" in said
    found, kinds = told(here / "rows.check")
    assert found["passed"] is True
    assert kinds == {}
    page = (here / "rows.check/check.html").read_text(encoding="utf-8")
    assert "3 rows with 3 pictures: nothing is wrong" in page


def test_errors_are_told_with_line_id_value_and_remedy(here, capsys):
    rows = [llava(0, "0.jpg", QUESTION, "A cup."), llava(1, "1.gif", QUESTION, "A pot."),
            llava(2, None, "Hi", ""), "{broken"]  # fmt: skip
    write_rows(here / "rows.jsonl", rows)
    assert main(["check", "rows.jsonl", "--out", "seen"]) == 1
    found, kinds = told(here / "seen")
    assert found["passed"] is False
    assert set(kinds) == {"missing_image", "empty_answer", "bad_row"}
    missing = kinds["missing_image"]
    assert (missing["level"], missing["count"]) == ("error", 1)
    assert missing["examples"][0]["line"] == 2
    assert missing["examples"][0]["id"] == "r1"
    assert missing["examples"][0]["value"].endswith("1.gif; 1.jpg is there")
    said = capsys.readouterr().out
    assert "line 2, id r1: " in said
    assert "vlforge repair" in said


def test_warnings_alone_pass(here):
    write_rows(here / "rows.jsonl", [llava(0, None, "Hi </s>", "Hello")])
    assert main(["check", "rows.jsonl"]) == 0
    assert set(told(here / "rows.check")[1]) == {"special_token"}


def test_a_recipe_is_still_a_recipe(here, capsys):
    write_rows(here / "rows.jsonl", [{"text": "<__dj__image> a cat", "images": ["0.jpg"]}])
    (here / "clean.yaml").write_text(
        "device: cpu\nstages:\n  clean: {kind: process, dataset_path: rows.jsonl, process: []}\n"
    )
    assert main(["check", "clean.yaml"]) == 0
    assert "Next    vlforge run clean.yaml\n" in capsys.readouterr().out
    chosen = ["clean.yaml", "stages.clean.np=1", "--out", "x y", "--until", "clean"]
    assert main(["check", *chosen]) == 0
    said = "Next    vlforge run clean.yaml stages.clean.np=1 --out 'x y' --until clean\n"
    assert said in capsys.readouterr().out
    (here / "rows.jsonl").unlink()
    assert main(["check", "clean.yaml"]) == 2


def test_a_dataset_that_is_not_there_is_one_line(here, capsys):
    assert main(["check", "rows.jsonl"]) == 2
    assert "dataset rows.jsonl does not exist" in capsys.readouterr().err


def test_a_budget_is_held(here):
    write_rows(here / "rows.jsonl", [llava(k, None, "Hi", f"{k}") for k in range(3)])
    assert main(["check", "rows.jsonl", "--max-samples", "3"]) == 0
    assert main(["check", "rows.jsonl", "--max-samples", "2"]) == 1


def test_pictures_may_start_elsewhere(here):
    (here / "data").mkdir()
    write_rows(here / "data/rows.jsonl", [llava(0, "0.jpg", QUESTION, "A cup.")])
    assert main(["check", "data/rows.jsonl"]) == 1
    assert main(["check", "data/rows.jsonl", "--image-root", "."]) == 0


def test_broken_pixels_are_seen_where_they_are_decoded(here):
    content = (here / "0.jpg").read_bytes()
    (here / "0.jpg").write_bytes(content[: len(content) * 2 // 3])
    write_rows(here / "rows.jsonl", [llava(0, "0.jpg", QUESTION, "A cup.")])
    assert main(["check", "rows.jsonl"]) == 0
    assert main(["check", "rows.jsonl", "--decode"]) == 1
    assert main(["check", "rows.jsonl", "--decode", "--headers"]) == 2


@pytest.mark.parametrize("fmt", ["dj", "sharegpt", "messages", "tsv_base64", "webdataset"])
def test_other_formats_are_read(here, fmt):
    rows = [llava(k, f"{k}.jpg", "<image>", f"A cup {k}.") for k in range(3)]
    write_rows(here / "rows.jsonl", rows)
    suffix = {"tsv_base64": "tsv", "webdataset": "tar"}.get(fmt, "jsonl")
    assert main(["convert", "rows.jsonl", f"other.{suffix}", "--to", fmt]) == 0
    assert main(["check", f"other.{suffix}"]) == 0
    assert told(here / "other.check")[0]["pictures"]["files"] == 3


HOSTILE = [
    llava({"a": [1]}, "a\0b.jpg", "<image>\n\ud800", "\udfff"),
    llava(2, "x" * 5000, "<image>", "\x1b[31m</s>\ud800"),
    {**llava(3, ["0.jpg", "..", ""], "<image>", "x"), "id": {"deep": [1]}},
    {**llava(4, "data:image/png;base64,AAAA", "<image>", "x"), "id": "\ud800\x1b[2J"},
]


def test_hostile_rows_cost_themselves_and_no_more(here, capsys):
    write_rows(here / "rows.jsonl", [*HOSTILE, llava(5, "0.jpg", QUESTION, "A cup.")])
    assert main(["check", "rows.jsonl", "--decode"]) == 1
    found, kinds = told(here / "rows.check")
    assert (found["rows"], kinds["broken_image"]["count"]) == (5, 3)
    assert "\x1b" not in capsys.readouterr().out
    assert "\x1b" not in (here / "rows.check/check.html").read_text(encoding="utf-8")
    assert not run_repair("rows.jsonl", "new/rows.jsonl", "--images", "copy")
    assert "Written 2 of 5 rows" in capsys.readouterr().out


def test_a_benchmark_tells_leaks(here):
    question = {"question_id": "a", "image": "0.jpg", "text": "What is on the table here?\nAnswer "
                "the question using a single word or phrase."}  # fmt: skip
    (here / "bench").mkdir()
    (here / "0.jpg").rename(here / "bench/0.jpg")
    write_rows(here / "textvqa.jsonl", [question])
    image = base64.b64encode((here / "1.jpg").read_bytes()).decode()
    (here / "mmbench.tsv").write_text(
        f"index\tquestion\tA\tB\timage\n1\tWhat is it that you see?\tcat\tdog\t{image}\n"
    )
    rows = [llava(0, "bench/0.jpg", "<image>\nWhat is on the table here?", "A cup."),
            llava(1, "1.jpg", "<image>\nSomething else altogether?", "A cup."),
            llava(2, "2.jpg", "<image>\nNothing of it.", "A pot.")]  # fmt: skip
    write_rows(here / "rows.jsonl", rows)
    words = ["check", "rows.jsonl", "--against", "textvqa.jsonl=bench", "--against", "mmbench.tsv"]
    assert main(words) == 1
    found, kinds = told(here / "rows.check")
    assert [e["line"] for e in kinds["leaked_sample"]["examples"]] == [1]
    assert [e["line"] for e in kinds["leaked_image"]["examples"]] == [2]
    assert [one["rows"] for one in found["against"]] == [1, 1]


def test_splits_are_compared(here):
    write_rows(here / "test.jsonl", [llava(0, "0.jpg", QUESTION, "A cup.")])
    write_rows(here / "train.jsonl", [llava(k, f"{k}.jpg", QUESTION, "A pot.") for k in (1, 2)])
    assert main(["check", "train.jsonl", "--against", "test.jsonl"]) == 0
    assert set(told(here / "train.check")[1]) == {"shared_question"}
    assert main(["check", "train.jsonl", "--against", "gone.jsonl"]) == 2


def letters_tokenizer(folder):
    """A tokenizer of bytes, with a `tokenizer.json`."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {piece: k for k, piece in enumerate(["<s>", "</s>", *sorted(alphabet)])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>"})
    )


def test_labels_are_counted_with_a_tokenizer(here, capsys):
    letters_tokenizer(here / "letters")
    rows = [llava(0, None, "Hi", "Yes."), llava(1, None, "Hi " * 200, "No."),
            llava(2, None, "Hi", "Yes. " * 90)]  # fmt: skip
    write_rows(here / "rows.jsonl", rows)
    words = ["check", "rows.jsonl", "--tokenizer", "letters", "--template"]
    assert main([*words, "vicuna_v1", "--max-length", "300"]) == 1
    found, kinds = told(here / "rows.check")
    assert [e["line"] for e in kinds["labels_lost"]["examples"]] == [2]
    assert [e["line"] for e in kinds["labels_cut"]["examples"]] == [3]
    assert found["trainings"][0]["rows"] == 3
    assert "2 over 300" in capsys.readouterr().out
    assert main([*words, "vicuna_v1", "--max-length", "3000"]) == 0


def test_labels_are_counted_as_a_recipe_trains(here):
    letters_tokenizer(here / "letters")
    (here / "recipe.yaml").write_text(
        "device: cpu\nstages:\n"
        f"  align: {{kind: train, data: rows.jsonl, template: vicuna_v1, max_length: 300,\n"
        f"    model: {{language: {here}/letters, vision: letters}}}}\n"
    )
    write_rows(here / "rows.jsonl", [llava(1, None, "Hi " * 200, "No.")])
    assert main(["check", "rows.jsonl", "--recipe", "recipe.yaml"]) == 1
    found, kinds = told(here / "rows.check")
    assert kinds["labels_lost"]["examples"][0]["value"].startswith("align")
    assert found["trainings"][0]["max_length"] == 300


def run_repair(*words):
    app = typer.Typer()
    app.command(epilog=repairing.EXAMPLES)(repairing.repair)
    return typer.main.get_command(app).main(list(words), standalone_mode=False)


def test_repair_makes_data_that_passes(here, capsys):
    rows = [llava(0, "0.gif", QUESTION, "A cup."), llava(1, "1.jpg", "<image>" + QUESTION, "No."),
            llava(2, "2.jpg", QUESTION, "A pot.", "And now?", " ")]  # fmt: skip
    write_rows(here / "rows.jsonl", rows)
    before = (here / "rows.jsonl").read_bytes()
    assert main(["check", "rows.jsonl"]) == 1
    assert not run_repair("rows.jsonl", "new/rows.jsonl", "--images", "copy")
    said = capsys.readouterr().out
    assert "Written 3 of 3 rows, 3 repaired" in said
    assert (here / "rows.jsonl").read_bytes() == before
    assert len((here / "new/rows.jsonl.repair.jsonl").read_text().splitlines()) == 3
    assert main(["check", "new/rows.jsonl"]) == 0
