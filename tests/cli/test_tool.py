"""Other systems' converters under their own names and with their own words."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from tests.data.pictures_made import picture
from vlforge.cli import main
from vlforge.cli.tool import split_words
from vlforge.data.json_lines import read_values, write_array, write_lines
from vlforge.data.reference_tools import TOOLS
from vlforge.data.tool_list import find_tool, tools
from vlforge.types import RecipeError

TALK = {
    "id": 7,
    "image": "x.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A bus."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "So."},
    ],
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_files_and_options_may_have_the_tools_own_names(capsys):
    odd = [{"id": n, "conversations": TALK["conversations"][:1]} for n in (8, 9)]
    write_array(Path("llava.json"), [TALK, *odd])
    words = "tool llava_to_dj.py --llava_ds_path llava.json --target_ds_path new/rows.jsonl"
    assert main([*words.split(), "--split_chunk", "True", "--sent_separator", "\\n"]) == 0
    shown = capsys.readouterr().out
    assert "Written 1 of 3 rows" in shown
    assert re.search(r"^has 1 turns +2$", shown, re.M)
    dropped = [value for _, value in read_values(Path("new/rows.jsonl.dropped.jsonl"))]
    assert [(row["line"], row["id"], row["value"]) for row in dropped] == [
        (2, 8, "questions lack answers"),
        (3, 9, "questions lack answers"),
    ]
    (row,) = (value for _, value in read_values(Path("new/rows.jsonl")))
    assert row["text"].count("<|__dj__eoc|>") == 2
    assert "What is it?\n[[gpt]]" in row["text"]
    assert main(["tool", "dj_to_llava", "new/rows.jsonl", "back.json"]) == 0
    assert json.loads(Path("back.json").read_text()) == [{**TALK, "id": "7"}]


def test_questions_are_restored_by_the_old_command(capsys):
    write_array(Path("first.json"), [TALK])
    write_lines(Path("rows.jsonl"), [{"id": "7", "text": "<image>\nA coach.", "images": ["x.jpg"]}])
    words = "--dj_ds_path rows.jsonl --target_llava_ds_path out.json --restore_questions True"
    command = ["tool", "dj_to_llava", *words.split(), "--original_llava_ds_path", "first.json"]
    assert main(command) == 0
    (row,) = json.loads(Path("out.json").read_text())
    assert [turn["value"] for turn in row["conversations"]] == ["<image>\nWhat is it?", "A coach."]


def test_captions_become_a_table_under_the_names_the_script_has(capsys):
    rows = [{"url": "http://a.example/1.jpg", "caption": "a"}, {"caption": "b"}]
    write_array(Path("ccs_synthetic_filtered_large.json"), rows)
    assert main(["tool", "convert_cc_sbu"]) == 0
    shown = capsys.readouterr().out
    assert "no 'url'" in shown
    assert "Written 1 of 2 rows" in shown
    made = Path("ccs_synthetic_filtered_large.tsv")
    assert made.read_bytes() == b"url\tcaption\nhttp://a.example/1.jpg\ta\n"
    assert main(["tool", "convert-cc-sbu", "--mode=reference"]) == 0
    assert made.read_bytes() == b"url\tcaption\r\nhttp://a.example/1.jpg\ta\r\nb\r\n"


def test_labels_are_split_and_every_row_is_accounted_for(capsys):
    data = base64.b64encode(picture(3)).decode()
    Path("in.tsv").write_text("".join(f"{n}\t{data}\t第{n}张图\n" for n in range(40)) + "bad\n")
    assert (
        main(["tool", "convert_labels", "in.tsv", "out", "prompt=说。", "--val-every", "10"]) == 0
    )
    shown = capsys.readouterr().out
    for line in ("Written 40 of 41 rows", "out/train.json, 36 rows", "out/val.json, 4 rows"):
        assert line in shown
    assert {row["conversations"][0][0] for row in json.loads(Path("out/val.json").read_text())} == {
        "说。"
    }
    ((_, dropped),) = read_values(Path("out/dropped.jsonl"))
    assert dropped["line"] == 41


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("llava_to_dk a b", "did you mean 'llava_to_dj'?"),
        ("nothing a b", "vlforge list tools"),
        ("llava_to_dj a b c", "'c' is one file too many"),
        ("llava_to_dj a", "no DST given"),
        ("llava_to_dj a b --split_chunks true", "did you mean 'split_chunk'?"),
        ("llava_to_dj a b --split_chunk perhaps", "take true or false"),
        ("llava_to_dj a b --image_broadcast_pos middle", "'random', 'before', 'after', 'follow'"),
        ("llava_to_dj a b --seed x", "take a whole number"),
        ("llava_to_dj a b", "dataset a does not exist"),
        ("llava_to_dj a a", "source and target are the same"),
        ("llava_to_dj a b --image_broadcast", "set split_chunk too"),
        ("dj_to_llava a b --original x", "it has keep_only_first_image"),
        ("convert_labels a b --mode rank4", "'split', 'rank3'"),
        ("convert_labels a b --val_every 0", "val_every is 0"),
        ("convert_cc_sbu a b --mode reference", "dataset a does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, said, capsys):
    assert main(["tool", *words.split()]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("error: ")
    assert said in shown
    assert not [path for path in Path().rglob("*") if path.is_file()]


def test_every_tool_has_a_page_and_stands_in_the_list(capsys):
    assert main(["list", "tools"]) == 0
    listed = capsys.readouterr().out
    assert {tool.name for tool in tools()} > set(TOOLS)
    for tool in tools():
        assert f"\n{tool.name} " in listed
        assert main(["tool", tool.name, "--help"]) == 0
        shown = capsys.readouterr().out
        files = "SRC DST" if tool.takes_files else ""
        assert f"vlforge tool {tool.name} {files}" in shown
        assert all(f"--{option.name} " in shown for option in tool.options)
        assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "value"),
    [("--multimodal_keys a", ["a"]), ("--multimodal_keys ['a','b']", ["a", "b"])],
)
def test_lists_are_read_as_the_tools_read_them(words, value):
    _, _, options = split_words(find_tool("messages_to_dj"), ["a", "b", *words.split()])
    assert options == {"multimodal_keys": value}


def test_an_option_without_a_value_is_true():
    found = split_words(find_tool("llava_to_dj"), ["--split_chunk", "--str_id", "no", "a", "b"])
    assert found == (Path("a"), Path("b"), {"split_chunk": True, "str_id": False})
    with pytest.raises(RecipeError, match="one file too many"):
        split_words(find_tool("llava_to_dj"), ["a", "b", "c"])
