"""The formats of JSON objects: how each is read, told apart, and written."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.pictures_made import picture
from vlforge.data.convert import convert
from vlforge.data.formats.coco import CocoFormat
from vlforge.data.formats.index import detect, find
from vlforge.data.formats.llava import LlavaFormat
from vlforge.data.formats.messages import MessagesFormat
from vlforge.data.formats.sharegpt import SharegptFormat
from vlforge.data.json_lines import RowFile, write_array, write_lines
from vlforge.data.json_rows import JsonRows
from vlforge.data.records import Fault, Picture, Record, Unfit
from vlforge.types import DataError, Turn

DATA = base64.b64encode(picture(1)).decode()
URL = f"data:image/jpeg;base64,{DATA}"
ROW_FORMATS = (
    "alpaca", "chatml_paddle", "dj", "laion_json", "llava", "messages", "mmc4", "query_response",
    "sharegpt",
)  # fmt: skip
SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bus."}]
TURNS = (Turn("user", "<image>\nWhat?"), Turn("assistant", "A bus."))
ROWS: list[tuple[str, dict[str, Any], tuple[Turn, ...]]] = [
    ("llava", {"id": "1", "image": "a/x.jpg", "conversations": SAID}, TURNS),
    ("llava", {"id": 1, "image": ["a/x.jpg"], "conversations": SAID, "url": "u"}, TURNS),
    ("llava", {"id": "t", "model": "", "conversations": [SAID[1]]}, TURNS[1:]),
    ("sharegpt", {"images": ["a/x.jpg"], "conversations": SAID, "tools": "[]"}, TURNS),
    (
        "sharegpt",
        {"conversations": SAID, "system": "Be brief.", "images": ["a/x.jpg"]},
        (Turn("system", "Be brief."), *TURNS),
    ),
    (
        "sharegpt",
        {"conversation": [{"human": "<image>\nWhat?", "assistant": "A bus."}],
         "images": ["a/x.jpg"]},
        TURNS,
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "user", "value": "<img>a/x.jpg</img>\nWhat?"},
                           {"from": "assistant", "value": "A bus."}]},
        TURNS,
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "a/x.jpg", "detail": "low"}},
            {"type": "text", "text": "What?"}]}, {"role": "assistant", "content": "A bus."}]},
        TURNS,
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [
            {"type": "image", "image": "a/x.jpg"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A bus."}]}]},
        TURNS,
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "image"}, "What?"]},
                      {"role": "assistant", "content": "A bus."}], "images": ["a/x.jpg"]},
        TURNS,
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": "<image>\nWhat?"},
                      {"role": "assistant", "content": "A bus."}], "images": ["a/x.jpg"]},
        TURNS,
    ),
    (
        "alpaca",
        {"instruction": "<image>", "input": "What?", "output": "A bus.", "images": ["a/x.jpg"]},
        TURNS,
    ),
    (
        "query_response",
        {"query": "<image>\nWhat?", "response": "A bus.", "images": ["a/x.jpg"], "history": []},
        TURNS,
    ),
    ("query_response", {"query": "<img>a/x.jpg</img>\nWhat?", "response": "A bus."}, TURNS),
    ("chatml_paddle", {"id": "1", "conversations": [["What?", "A bus."], [""]], "image": DATA},
     TURNS),
    (
        "dj",
        {"text": "[[human]]: <__dj__image>\nWhat?\n[[gpt]]: A bus. <|__dj__eoc|>",
         "images": ["a/x.jpg"]},
        TURNS,
    ),
]  # fmt: skip


def only(format_: Any, path: Path) -> Record:
    """The one record of a file."""
    (record,) = format_.read(path)
    assert isinstance(record, Record), record
    return record


@pytest.mark.parametrize("as_array", [True, False])
@pytest.mark.parametrize(("name", "row", "turns"), ROWS)
def test_a_row_is_known_by_its_content_and_read(tmp_path, name, row, turns, as_array):
    path = tmp_path / "named.wrongly"
    (write_array if as_array else write_lines)(path, [row])
    format_ = detect(path)
    assert format_.name == name
    record = only(format_, path)
    assert record.turns == turns
    if name == "chatml_paddle":
        assert [p.content for p in record.pictures] == [picture(1)]
    elif len(turns) > 1:
        assert record.pictures == (Picture("a/x.jpg", str(tmp_path)),)


@pytest.mark.parametrize(("name", "row", "_"), ROWS)
def test_a_row_comes_back_to_its_format_as_a_record_that_is_the_same(tmp_path, name, row, _):
    path, again = tmp_path / "a.json", tmp_path / "b.json.gz"
    write_array(path, [row])
    format_ = find(name)
    with format_.writer(again) as writer:
        writer.write(only(format_, path))
    assert only(format_, again) == only(format_, path)
    assert gzip.decompress(again.read_bytes()).startswith(b"[\n")


@pytest.mark.parametrize("name", ROW_FORMATS)
def test_unknown_fields_with_the_formats_own_names_survive(tmp_path, name):
    keys = ["text", "image", "images", "conversations", "caption", "query", "input", "messages",
            "system", "instruction", "image_info", "text_list", "history"]  # fmt: skip
    extra = {key: {"of": key} for key in keys} | {"url": "http://a.example/x.jpg"}
    record = Record("a", (), (), ("a red bus",), extra)
    format_ = find(name)
    with format_.writer(tmp_path / "a.json") as writer:
        writer.write(record)
    assert only(format_, tmp_path / "a.json").extra == extra


def test_tool_calls_and_fields_of_turns_keep_their_places(tmp_path):
    row = {
        "id": 1,
        "conversations": [
            {"from": "human", "value": "How warm is it?"},
            {"from": "function_call", "value": "{}", "loss": 0},
            {"from": "observation", "value": "20"},
            {"from": "gpt", "value": "20 degrees."},
        ],
        "tools": "[]",
    }
    first, there, back = (tmp_path / name for name in ("a.json", "b.json", "c.json"))
    write_array(first, [row])
    convert(first, there, SharegptFormat(), MessagesFormat())
    said = json.loads(there.read_text())[0]["messages"]
    assert [turn["role"] for turn in said] == ["user", "tool_call", "tool", "assistant"]
    convert(there, back, MessagesFormat(), SharegptFormat())
    assert json.loads(back.read_text()) == [row]
    (tmp_path / "d.json").unlink(missing_ok=True)
    convert(first, tmp_path / "d.json", SharegptFormat(), find("alpaca"))
    convert(tmp_path / "d.json", back, find("alpaca"), SharegptFormat())
    assert json.loads(back.read_text()) == [row]


def test_pictures_in_messages_are_bytes_and_may_be_embedded(tmp_path):
    row = {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": URL}}]},
        {"role": "assistant", "content": "A bus."}]}  # fmt: skip
    first, apart, again = (tmp_path / name for name in ("a.json", "b.json", "c.json"))
    write_array(first, [row])
    convert(first, apart, MessagesFormat(), MessagesFormat())
    (path,) = [p["image_url"]["url"] for p in json.loads(apart.read_text())[0]["messages"][0]
               ["content"] if p["type"] == "image_url"]  # fmt: skip
    assert (tmp_path / path).read_bytes() == picture(1)
    convert(apart, again, MessagesFormat(), MessagesFormat(embed=True))
    assert json.loads(again.read_text()) == [row]


def test_ms_swift_is_written_in_rounds_and_refuses_turns_that_do_not_alternate():
    swift = SharegptFormat(flavour="ms_swift")
    asked = Record(1, (), (Turn("system", "S"), Turn("user", "a")))
    assert swift.row(asked) == {"id": 1, "system": "S", "conversation": [{"human": "a"}]}
    with pytest.raises(Unfit, match="alternate"):
        swift.row(Record(1, (), (Turn("user", "a"), Turn("user", "b"))))
    with pytest.raises(DataError, match="flavour is 'swift'"):
        SharegptFormat(flavour="swift")  # type: ignore[arg-type]


def test_an_instruction_is_part_of_the_question_and_taken_out_again(tmp_path):
    row = {"system": "S", "instruction": "Translate.", "query": "Guten Tag", "response": "Hello",
           "history": [["a", "b"]]}  # fmt: skip
    first, there, back = (tmp_path / name for name in ("a.jsonl", "b.json", "c.jsonl"))
    write_lines(first, [row])
    rows = find("query_response")
    convert(first, there, rows, LlavaFormat())
    asked = json.loads(there.read_text())[0]["conversations"][1]["value"]
    assert asked == "Translate.\na"
    convert(there, back, LlavaFormat(), rows)
    assert json.loads(back.read_text()) == row


def test_paddles_prompt_stands_where_a_caption_has_no_question(tmp_path):
    record = Record("1", (Picture(content=picture(1)),), (), ("<image>\na bus",))
    for prompt, question in (({}, "请描述图片内容。"), ({"prompt": "Say."}, "Say.")):
        format_ = find("chatml_paddle", **prompt)
        assert format_.row(record)["conversations"] == [[question, "a bus"]]
    with find("chatml_paddle").writer(tmp_path / "train.json") as writer:
        writer.write(record)
    template = json.loads((tmp_path / "chat_template.json").read_text())["conversation"]
    assert "".join(template).count("<|im_start|>") == 2
    second = Turn("user", "<image>\nAnd this?")
    with pytest.raises(Unfit, match="first question"):
        format_.row(Record("1", record.pictures, (*TURNS[1:], second, TURNS[1])))


def test_documents_of_mmc4_have_pictures_by_their_sentences(tmp_path):
    row = {
        "text_list": ["First.", "Second.", ""],
        "image_info": [
            {"image_name": "b.jpg", "matched_text_index": 1, "matched_sim": 0.3},
            {"image_name": "a.jpg", "matched_text_index": 0},
        ],
        "similarity_matrix": [[1, 2, 3], [4, 5, 6]],
    }
    write_lines(tmp_path / "a.jsonl", [row])
    record = only(detect(tmp_path / "a.jsonl"), tmp_path / "a.jsonl")
    assert record.chunks == ("<image> First.", "<image> Second.", "")
    assert [p.path for p in record.pictures] == ["a.jpg", "b.jpg"]
    assert record.extra["similarity_matrix"] == [[4, 5, 6], [1, 2, 3]]
    out = find("mmc4").row(record)
    assert out == {
        **row,
        "image_info": row["image_info"][::-1],
        "similarity_matrix": [[4, 5, 6], [1, 2, 3]],
    }
    inside = find("mmc4", image_dir="imgs")
    write_lines(tmp_path / "b.jsonl", [row])
    assert only(inside, tmp_path / "b.jsonl").pictures[0].path == "imgs/a.jpg"
    assert inside.row(only(inside, tmp_path / "b.jsonl")) == out


COCO = {
    "info": {"year": 2014},
    "images": [{"id": 5, "file_name": "a.jpg", "width": 9}, {"id": 6, "file_name": "b.jpg"}],
    "licenses": [],
    "annotations": [
        {"id": 1, "image_id": 5, "caption": "one"},
        {"id": 2, "image_id": 5, "caption": "two", "note": "x"},
        {"id": 3, "image_id": 7, "caption": "lost"},
    ],
}


@pytest.mark.parametrize("reverse", [False, True])
def test_captions_of_coco_find_their_images_in_either_order(tmp_path, reverse):
    members = list(COCO.items())
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(dict(members[::-1] if reverse else members), indent=1))
    assert detect(path).name == "coco"
    one, two, lost = CocoFormat(image_dir="train2014").read(path)
    assert isinstance(one, Record)
    assert isinstance(two, Record)
    assert one.pictures[0].path == "train2014/a.jpg"
    assert (two.id, two.chunks, two.extra["note"]) == (2, ("<image>\ntwo",), "x")
    assert isinstance(lost, Fault)
    assert (lost.line, lost.reason) == (3, "its image is not among 'images'")
    with CocoFormat(image_dir="train2014").writer(tmp_path / "again.json") as writer:
        writer.write(one)
        writer.write(two)
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["images"] == COCO["images"][:1]
    assert again["annotations"] == COCO["annotations"][:2]


def test_coco_refuses_an_id_that_is_another_pictures(tmp_path):
    def record(path: str) -> Record:
        return Record(1, (Picture(path),), (), ("<image>\na",), {"image_id": 5})

    with CocoFormat().writer(tmp_path / "a.json") as writer:
        writer.write(record("a.jpg"))
        with pytest.raises(Unfit, match="same 'image_id': 5"):
            writer.write(record("b.jpg"))


def test_a_folder_of_the_second_stage_is_read_and_written(tmp_path):
    source = tmp_path / "cc_sbu_align"
    (source / "image").mkdir(parents=True)
    (source / "image" / "2.jpg").write_bytes(picture(2))
    notes = [{"image_id": "2", "caption": "a bus"}, {"image_id": "../2", "caption": "x"},
             {"image_id": "3", "caption": "no file"}]  # fmt: skip
    (source / "filter_cap.json").write_text(json.dumps({"annotations": notes}))
    format_ = detect(source)
    assert format_.name == "cc_sbu_align"
    done = convert(source, tmp_path / "new", format_, format_)
    assert (done.read, done.written) == (3, 1)
    assert (tmp_path / "new/image/2.jpg").read_bytes() == picture(2)
    made = json.loads((tmp_path / "new/filter_cap.json").read_text())
    assert made == {"annotations": notes[:1]}
    with pytest.raises(DataError, match="exists"):
        convert(source, tmp_path / "new", format_, format_)
    assert not list(tmp_path.glob(".*"))


def test_names_of_pictures_of_the_second_stage_are_plain_and_not_taken(tmp_path):
    with find("cc_sbu_align").writer(tmp_path / "new") as writer:
        for number in ("a", "a", "../x", 7, None):
            writer.write(Record(number, (Picture(content=picture(1)),), (), ("<image>\nb",)))
    notes = json.loads((tmp_path / "new/filter_cap.json").read_text())["annotations"]
    assert [note["image_id"] for note in notes] == ["a", "0", "1", "7", "2"]
    assert [note.get("id") for note in notes] == [None, "a", "../x", 7, None]


def test_links_have_no_picture_and_need_one_to_be_written():
    laion = find("laion_json")
    record = laion.record({"caption": "a bus", "url": "http://a.example/x.jpg", "n": 1}, "", 1)
    assert (record.pictures, record.chunks) == ((), ("a bus",))
    assert laion.row(record) == {"caption": "a bus", "url": "http://a.example/x.jpg", "n": 1}
    with pytest.raises(Unfit, match="no 'url'"):
        laion.row(Record(1, (), (), ("a",)))


@pytest.mark.parametrize("name", ["captions.json", "anything.jsonl"])
def test_a_list_of_links_is_known_whatever_its_name_and_keeps_the_path_of_a_picture(name, tmp_path):
    row = {"id": 3, "caption": "a bus", "url": "http://a.example/x.jpg", "image": "x.jpg"}
    path = tmp_path / name
    with RowFile(path, as_array=name.endswith(".json")) as file:
        file.write({"caption": None, "url": "http://a.example/0.jpg"})
        file.write(row)
    laion = detect(path)
    assert laion.name == "laion_json"
    fault, record = laion.read(path)
    assert (fault.line, fault.reason) == (1, "no 'caption'")
    assert record.pictures == (Picture("x.jpg", str(tmp_path)),)
    assert record.chunks == ("<image>\na bus",)
    assert laion.row(record) == row


def test_a_text_with_a_role_mark_or_token_does_not_fit_into_dj():
    for text in ("a [[gpt]]: b", "a <__dj__image>", "a <|__dj__eoc|> b"):
        with pytest.raises(Unfit, match="token or role mark"):
            find("dj").row(Record(1, (), (), (text,)))


def test_an_array_cut_in_half_keeps_its_good_rows_and_says_where(tmp_path):
    path = tmp_path / "a.json"
    write_array(path, [{"id": n, "conversations": [SAID[1]]} for n in range(10)])
    path.write_bytes(path.read_bytes()[:-100])
    done = convert(path, tmp_path / "b.json", LlavaFormat(), LlavaFormat())
    assert done.read == done.written + 1
    assert done.written >= 7
    told = json.loads(done.drops.read_text())
    assert told["line"] == done.read
    assert told["reason"] == "not JSON"
    assert "broken after item" in told["value"]


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("llava", {"conversations": []}, "no list of turns"),
        ("llava", {"conversations": [{"from": "robot", "value": "x"}]}, "unknown speaker"),
        ("llava", {"conversations": [{"from": ["gpt"], "value": "x"}]}, "unknown speaker"),
        ("llava", {"conversations": SAID, "image": {"no": 1}}, "no picture's path"),
        ("sharegpt", {"conversation": ["x"]}, "a round is no object"),
        ("messages", {"messages": [{"role": "user", "content": 1}]}, "neither text nor a list"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
         "a part is neither text nor picture"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
         "more image parts than 'images'"),
        ("alpaca", {"instruction": 1, "output": "x"}, "is no string"),
        ("alpaca", {"instruction": "x", "history": [["a"]]}, "no list of pairs"),
        ("query_response", {"response": None, "query": 2}, "is no string"),
        ("chatml_paddle", {"conversations": [["a", "b"]], "image": "no base64!"}, "not base64"),
        ("chatml_paddle", {"conversations": [[""]]}, "is empty"),
        ("mmc4", {"text_list": ["a"], "image_info": [{}]}, "matched_text_index"),
        ("laion_json", {"caption": "a"}, "no 'url'"),
        ("dj", {"text": None, "images": [3]}, "no picture's path"),
        ("messages", {"messages": [{"role": "user", "content": [
            {"type": "image", "image": "data:image/png,raw"}]}]}, "not in base64"),
    ],
)  # fmt: skip
def test_a_bad_row_is_a_fault_with_its_line(tmp_path, name, row, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + json.dumps(row).encode() + b"\n[1]\n{broken\n")
    first, second, third = find(name).read(path)
    assert isinstance(first, Fault)
    assert said in f"{first.reason}: {first.value}"
    assert [one.line for one in (first, second, third)] == [2, 3, 4]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(
        ("", "human", "gpt", "user", "text", "image_url", "data:image/png;base64,x", "file://[",
         "<img></img>", "[[human]]: ", "a.jpg")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(("from", "value", "role", "content", "type", "text", "url", "image",
                         "human", "assistant", "image_url", "image_name", "matched_text_index",
                         "bytes", "path", "source", "data")), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
KEYS = (
    "id", "image", "images", "conversations", "conversation", "messages", "text", "query",
    "response", "history", "system", "instruction", "input", "output", "caption", "url",
    "text_list", "image_info", "similarity_matrix", "turn_fields", "picture_fields",
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=5))
def test_any_row_is_a_record_or_refused_in_one_line(row):
    for name in ROW_FORMATS:
        format_ = find(name)
        assert isinstance(format_, JsonRows)
        record = done_or_refused(lambda f=format_: f.record(dict(row), "", 1))
        if record is not None:
            for other in ROW_FORMATS:
                done_or_refused(lambda f=find(other), r=record: f.row(r))


def done_or_refused(act: Callable[[], Any]) -> Any:
    """What is done, or None where it is refused; any other error is raised."""
    said = ""
    try:
        return act()
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    return None
