"""Data-Juicer's converters on rows and files of ours."""

from __future__ import annotations

import json

import pytest

from vlforge.data.json_lines import read_values, write_array, write_lines
from vlforge.data.reference_tools import make_tool, run_tool
from vlforge.types import DataError

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "instruction", "content": "Say it in French."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Bonjour."},
]


def test_a_question_survives_beside_a_system_and_an_instruction():
    row = make_tool("messages_to_dj")({"messages": TALK})
    assert row == {
        "system": "Be brief.",
        "instruction": "Say it in French.",
        "query": "Hello?",
        "response": "Bonjour.",
        "history": [],
    }
    assert make_tool("dj_to_messages")(row) == {"messages": TALK}
    theirs = make_tool("messages_to_dj", compat="data_juicer")({"messages": TALK})
    assert theirs["query"] == "Say it in French."


def test_pictures_between_words_are_counted_and_their_tokens_taken_out():
    row = {
        "text": "a <__dj__image> b <|__dj__eoc|> <__dj__image> c <|__dj__eoc|>",
        "images": ["x/1.jpg", "x/2.jpg"],
        "image_info": [{"image_name": "2.jpg"}, {"image_name": "1.jpg", "k": 1}],
    }
    assert make_tool("dj_to_mmc4")(row) == {
        "text_list": ["a b", "c"],
        "image_info": [
            {"image_name": "x/2.jpg", "matched_text_index": 1},
            {"image_name": "x/1.jpg", "k": 1, "matched_text_index": 0},
        ],
    }


@pytest.mark.parametrize("pick", [4, -1, None, True, "0"])
def test_a_picture_of_no_sentence_is_refused(pick):
    info = {"image_name": "x.jpg", "matched_text_index": pick}
    with pytest.raises(DataError, match="matched_text_index"):
        make_tool("mmc4_to_dj")({"text_list": ["a"], "image_info": [info]})


@pytest.mark.parametrize(
    ("tool", "row"),
    [
        ("messages_to_dj", {"messages": "x"}),
        ("messages_to_dj", {"messages": [{"role": "user"}]}),
        ("messages_to_dj", {"messages": [TALK[0], TALK[0]]}),
        ("ms_swift_sharegpt_to_dj", {"conversation": [{"human": "a"}]}),
        ("dj_to_messages", {"response": "a"}),
        ("dj_to_ms_swift_sharegpt", {"query": "a", "history": [["a"]]}),
        ("mmc4_to_dj", {"text_list": [1], "image_info": []}),
        ("dj_to_mmc4", {"text": "a"}),
    ],
)
def test_a_row_that_is_none_is_refused_in_one_line(tool, row):
    with pytest.raises(DataError) as caught:
        make_tool(tool)(row)
    assert "\n" not in str(caught.value)


def test_wrong_names_are_told():
    with pytest.raises(DataError, match="unknown converter 'llava'"):
        make_tool("llava")
    with pytest.raises(DataError, match="no option 'from_key'"):
        make_tool("messages_to_dj", from_key="x")


def test_a_file_is_turned_and_every_row_accounted_for(tmp_path):
    source, target = tmp_path / "a.jsonl", tmp_path / "b.json"
    write_lines(
        source, [{"query": "q", "response": "r", "history": []}, {"query": 1, "history": 2}]
    )
    with source.open("a") as file:
        file.write("{broken\n")
    done = run_tool("dj_to_messages", source, target)
    assert (done.read, done.written, sum(done.dropped.values())) == (3, 1, 2)
    assert len(json.loads(target.read_text())) == 1
    assert [value["line"] for _, value in read_values(done.drops)] == [2, 3]


def test_questions_are_restored_from_the_file_they_came_from(tmp_path):
    first = {
        "id": 7,
        "image": "x.jpg",
        "conversations": [
            {"from": "human", "value": "Describe it.\n<image>"},
            {"from": "gpt", "value": "A bus."},
        ],
    }
    original, rows, back = (tmp_path / name for name in ("o.json", "rows.jsonl", "back.json"))
    write_array(original, [first])
    run_tool("llava_to_dj", original, rows, only_keep_caption=True)
    run_tool("dj_to_llava", rows, back, original=original, restore_questions=True)
    assert [value for _, value in read_values(back)] == [first]
