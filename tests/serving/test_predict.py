"""Every row of a file has its answer, in its place, whatever the row holds."""

from __future__ import annotations

import fcntl
import json
import threading
from dataclasses import replace

import pytest

from tests import tiny_qwen
from tests.endpoint_server import endpoint
from tests.inference.tiny import picture
from tests.serving.made_rows import ASK, encoded, model_in, plan_of, text_of, write_tsv
from vlforge.checkpoints import index
from vlforge.checkpoints.checkpoint import Writing
from vlforge.data.images import load_rgb
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.serving.predict import answering, caption_tsv
from vlforge.serving.predict.answering import Hope, plan_batches
from vlforge.serving.predict.book import Book, write_output
from vlforge.serving.predict.row import Answer
from vlforge.serving.predict.rows import PROMPT, open_source
from vlforge.serving.predict.run import find_model, predict
from vlforge.types import DataError, Drawing, EndpointSpec, ModelError, Sample, Turn


def lines_of(plan) -> list[list[str]]:
    return [line.split("\t") for line in plan.output.read_text("utf-8").split("\n")[:-1]]


def json_of(plan) -> list[dict]:
    return [json.loads(line.replace(r"\n", " ")) for line in plan.output.read_text().splitlines()]


def chat_answers(folder, images, words=ASK) -> list[str]:
    """What the terminal says of each picture alone, as it stands in a line."""
    chat = LocalChat(load_model(folder / "model", "cpu"))
    turns = (Turn("user", f"<image>\n{words}"),)
    said = [chat.answer([Sample("x", (image,), turns)], 6)[0].text for image in images]
    return [text.replace("\n", " ") for text in said]


def test_captions_are_those_of_the_chat_line_for_line(tmp_path):
    model_in(tmp_path)
    plan = plan_of(tmp_path, write_tsv(tmp_path / "in.tsv", 11))
    done = predict(plan)
    wanted = chat_answers(tmp_path, [encoded(n) for n in range(11)])
    assert lines_of(plan) == [[f"ad{n}", text] for n, text in enumerate(wanted)]
    assert len(set(wanted)) > 5
    assert (done.summary.rows, done.kept, done.summary.fell_back) == (11, 0, {})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def odd_lines() -> list[bytes]:
    good, cut = text_of(encoded(1)), text_of(encoded(2, "JPEG")[:-300])
    return [
        b"\xef\xbb\xbfa\t" + good + b"\r",
        b"b\t" + good + b"\tcaption\tmore",
        good + b"\tits caption",
        b"d\t" + cut,
        b"e\t" + text_of(encoded(3))[:-9] + b"!!",
        b"",
        b"no tab",
        b"h\t",
        b"i\t" + text_of(b"no picture at all"),
        b"j\t\xe5\xe5",
        b"k\xff\t" + good,
        b"l\tdata:image/png;base64," + good,
        b"m\t" + good.rstrip(b"=").replace(b"+", b"-").replace(b"/", b"_"),
    ]


def test_a_damaged_line_costs_itself_and_no_line_is_missing(tmp_path):
    model_in(tmp_path)
    source = tmp_path / "in.txt"
    source.write_bytes(b"\n".join(odd_lines()))
    plan = plan_of(tmp_path, source, "out", report=tmp_path / "report.jsonl")
    done = predict(plan)
    rows = [line.split(b"\t") for line in plan.output.read_bytes().split(b"\n")]
    assert rows.pop() == [b""]
    assert [row[0] for row in rows] == [
        b"a", b"b", b"2", b"d", b"e", b"", b"no tab", b"h", b"i", b"j", b"k\xff", b"l", b"m",
    ]  # fmt: skip
    fell = [at for at, row in enumerate(rows) if row[1] == "一张图片".encode()]
    assert fell == [5, 6, 7, 8, 9]
    same = {rows[at][1] for at in (0, 1, 2, 10, 11, 12)}
    assert same == {chat_answers(tmp_path, [encoded(1)])[0].encode()}
    assert done.summary.damaged == 2
    assert done.summary.fell_back == {
        "picture cannot be read": 2, "line is blank": 1, "line has no tab": 1,
        "line has no picture": 1,
    }  # fmt: skip
    told = [json.loads(line) for line in plan.report.read_text().splitlines()]
    assert [row["row"] for row in told] == [4, 5, 6, 7, 8, 9, 10]
    assert told[0]["reason"] == "answered to what is left of its picture"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_off_picture_is_answered_as_far_as_it_goes(tmp_path, kind):
    model_in(tmp_path)
    cut = encoded(7, kind)[: -len(encoded(7, kind)) // 3]
    source = tmp_path / "in.tsv"
    source.write_bytes(b"x\t" + text_of(cut) + b"\n")
    plan = plan_of(tmp_path, source)
    assert predict(plan).summary.damaged == 1
    load_rgb(cut, truncated="fill").save(tmp_path / "left.png")
    assert lines_of(plan) == [["x", *chat_answers(tmp_path, [str(tmp_path / "left.png")])]]
    strict = plan_of(tmp_path, source, "strict.tsv", keeps_damaged=False, fallback="no words")
    assert predict(strict).summary.fell_back == {"picture cannot be read": 1}
    assert lines_of(strict) == [["x", "no words"]]


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_tsv, "LONGEST", 3000)
    monkeypatch.setattr(caption_tsv, "_PIECE", 500)
    lines = [b"long\t" + b"A" * 90_000, b"fits\t" + b"A" * 2000, b"more\t" + b"A" * 400_000]
    path = tmp_path / "in.tsv"
    path.write_bytes(b"\n".join(lines))
    rows = list(caption_tsv.caption_rows(path, "?"))
    assert [(row.id, row.reason) for row in rows] == [
        ("long", "line is too long"),
        ("fits", ""),
        ("more", "line is too long"),
    ]


def test_breaks_and_tabs_in_answers_become_spaces(tmp_path):
    book = Book(tmp_path / "out.tsv", {})
    book.add([Answer(1, 5, "b", "x\u2028y\x85z"), Answer(0, 5, "a\t1", "one\r\ntwo\nthree\tfour")])
    book.add([Answer(2, 5, 3, " \n")])
    summary = write_output(book, 3, "tsv", None)
    assert (tmp_path / "out.tsv").read_text("utf-8") == (
        "a 1\tone two three four\nb\tx y z\n3\t一张图片\n"
    )
    assert summary.fell_back == {"answer is empty": 1}


def test_rows_of_json_are_asked_their_own_questions(tmp_path):
    model_in(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / f"pictures/{number}.png").write_bytes(encoded(number))
    rows = [
        {"id": 7, "image": "0.png", "question": "what is red"},
        {"question_id": "q", "image": "1.png", "text": "the cat is"},
        {"images": ["2.png"]},
        {"id": "c", "image": text_of(encoded(0)).decode(), "question": "what is red"},
        {"id": "gone", "image": "gone.png", "question": "what is red"},
        "no row",
        {"id": "words", "question": "what is the horse"},
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    images = str(tmp_path / "pictures")
    plan = plan_of(tmp_path, source, "out.jsonl", prompt="", images=images)
    predict(plan)
    found = json_of(plan)
    assert [row["id"] for row in found] == [7, "q", 2, "c", "gone", "5", "words"]
    red = chat_answers(tmp_path, [encoded(0)], "what is red")
    assert [found[0]["answer"], found[3]["answer"]] == red * 2
    assert [found[1]["answer"]] == chat_answers(tmp_path, [encoded(1)], "the cat is")
    assert [found[2]["answer"]] == chat_answers(tmp_path, [encoded(2)], PROMPT)
    assert found[0]["confidence"] < 0
    assert "gone.png does not exist" in found[4]["fallback"]
    assert found[5] == {
        "id": "5",
        "answer": "",
        "confidence": None,
        "fallback": "no row: no object",
    }
    assert found[6]["answer"]


def test_datasets_lose_the_answer_that_is_asked_for(tmp_path):
    model_in(tmp_path)
    (tmp_path / "0.png").write_bytes(encoded(0))
    said = [("human", "<image>\nwhat is red"), ("gpt", "the cat is on the grass")]
    row = {"id": "r", "image": "0.png", "conversations": [{"from": w, "value": t} for w, t in said]}
    source = tmp_path / "in.json"
    source.write_text(json.dumps([row]))
    asked = plan_of(tmp_path, source, "own.jsonl", prompt="")
    predict(asked)
    assert json_of(asked)[0]["answer"] == chat_answers(tmp_path, [encoded(0)], "what is red")[0]
    told = plan_of(tmp_path, source, "told.tsv")
    predict(told)
    assert lines_of(told) == [["r", *chat_answers(tmp_path, [encoded(0)])]]


def test_a_folder_of_pictures_is_answered_by_name(tmp_path):
    model_in(tmp_path)
    (tmp_path / "pictures/b").mkdir(parents=True)
    for name, number in (("z.png", 0), ("a.png", 1), ("b/c.png", 2)):
        (tmp_path / "pictures" / name).write_bytes(encoded(number))
    (tmp_path / "pictures/cut.jpg").write_bytes(encoded(3, "JPEG")[:40])
    plan = plan_of(tmp_path, tmp_path / "pictures", "out.jsonl")
    predict(plan)
    found = json_of(plan)
    assert [row["id"] for row in found] == ["a.png", "cut.jpg", "z.png", "b/c.png"]
    said = chat_answers(tmp_path, [encoded(n) for n in (1, 0, 2)])
    assert [found[0]["answer"], found[2]["answer"], found[3]["answer"]] == said
    assert found[1]["answer"] == ""


def test_sampling_depends_on_the_row_and_the_seed_alone(tmp_path):
    model_in(tmp_path)
    source = tmp_path / "in.tsv"
    source.write_bytes(b"x\t" + text_of(encoded(1)) + b"\n")
    one = plan_of(tmp_path, source, "one.tsv", drawing=Drawing(8, 1.0), seed=3)
    predict(one)
    source.write_bytes((b"x\t" + text_of(encoded(1)) + b"\n") * 9)
    many = plan_of(tmp_path, source, "many.tsv", drawing=Drawing(8, 1.0), batch=5)
    predict(many)
    said = [text for _, text in lines_of(many)]
    assert len(set(said)) > 4
    assert said[3] == lines_of(one)[0][1]


def stop_after(monkeypatch, count: int) -> list[int]:
    """Let so many batches be answered, then fail as Ctrl-C does; gives the sizes of all."""
    sizes: list[int] = []
    work = answering.Answering.work

    def cut(self, order, opened):
        if len(sizes) == count:
            raise KeyboardInterrupt
        sizes.append(len(order))
        return work(self, order, opened)

    monkeypatch.setattr(answering.Answering, "work", cut)
    return sizes


def predict_until(plan, monkeypatch, count: int) -> None:
    """Stopped when so many batches are answered."""
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(KeyboardInterrupt):
            predict(plan)


def test_a_stopped_command_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    model_in(tmp_path)
    source = write_tsv(tmp_path / "in.tsv", 18)
    whole = plan_of(tmp_path, source, "whole.tsv")
    predict(whole)
    plan = plan_of(tmp_path, source)
    predict_until(plan, monkeypatch, 2)
    assert not plan.output.exists()
    part = tmp_path / ".out.tsv.answers"
    part.write_bytes(part.read_bytes() + b'[17,5,"ad17","to')
    sizes = stop_after(monkeypatch, 99)
    assert predict(plan).kept == 8
    assert sizes == [4, 4, 2]
    assert plan.output.read_bytes() == whole.output.read_bytes()
    assert not part.exists()


def test_rows_that_changed_meanwhile_are_asked_again(tmp_path, monkeypatch):
    model_in(tmp_path)
    source = write_tsv(tmp_path / "in.tsv", 12)
    plan = plan_of(tmp_path, source)
    predict_until(plan, monkeypatch, 2)
    lines = source.read_bytes().split(b"\n")
    lines[1] = b"new\t" + text_of(encoded(50))
    source.write_bytes(b"\n".join(lines))
    assert predict(plan).kept == 7
    assert lines_of(plan)[1] == ["new", *chat_answers(tmp_path, [encoded(50)])]


def test_answers_of_other_settings_do_not_mix(tmp_path, monkeypatch):
    model_in(tmp_path)
    plan = plan_of(tmp_path, write_tsv(tmp_path / "in.tsv", 9))
    predict_until(plan, monkeypatch, 1)
    other = plan_of(tmp_path, plan.source.path, prompt="what is red", seed=4)
    with pytest.raises(DataError, match="another prompt and seed; give that command again, or --f"):
        predict(other)
    assert predict(replace(other, fresh=True)).kept == 0


def test_what_a_wrong_setting_refused_is_asked_again_with_the_right_one(tmp_path):
    model_in(tmp_path)
    source = write_tsv(tmp_path / "in.tsv", 6)
    wrong = plan_of(tmp_path, source, prompt="what is red " * 90)
    with pytest.raises(ModelError, match="no row was answered; the first: conversation too long"):
        predict(wrong)
    done = predict(plan_of(tmp_path, source))
    assert (done.kept, done.summary.fell_back) == (0, {})


def test_pictures_that_are_all_elsewhere_end_the_command_and_one_does_not(tmp_path):
    model_in(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/0.png").write_bytes(encoded(0))
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"image": "{n}.png"}}\n' for n in range(2)))
    with pytest.raises(ModelError, match=r"no row was answered; .*0\.png does not exist"):
        predict(plan_of(tmp_path, source, "out.jsonl"))
    done = predict(plan_of(tmp_path, source, "out.jsonl", images=str(tmp_path / "here")))
    assert done.summary.fell_back == {"picture is not there": 1}


def test_two_commands_do_not_write_one_output(tmp_path):
    model_in(tmp_path)
    plan = plan_of(tmp_path, write_tsv(tmp_path / "in.tsv", 3))
    book = Book(plan.output, {})
    with pytest.raises(DataError, match="another command writes it"):
        predict(plan)
    book.close(is_done=False)


def test_a_command_that_ends_while_another_begins_takes_nothing_with_it(tmp_path, monkeypatch):
    first, lock = Book(tmp_path / "out.tsv", {}), fcntl.flock

    def lock_late(file, how):
        first.close(is_done=True)
        lock(file, how)

    monkeypatch.setattr("fcntl.flock", lock_late)
    with pytest.raises(DataError, match="another command has just ended with it; begin again"):
        Book(tmp_path / "out.tsv", {})
    monkeypatch.setattr("fcntl.flock", lock)
    Book(tmp_path / "out.tsv", {}).close(is_done=True)
    assert list(tmp_path.iterdir()) == []


def test_batches_do_not_depend_on_what_is_answered(tmp_path):
    _, rows = open_source(plan_of(tmp_path, write_tsv(tmp_path / "in.tsv", 10)).source)
    batches = list(plan_batches(rows(), 4))
    assert [[row.number for row in batch] for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_give_the_bytes_of_one(tmp_path, count):
    model_in(tmp_path)
    source = tmp_path / "in.tsv"
    source.write_bytes(b"\n".join(odd_lines() * 3))
    one = plan_of(tmp_path, source, "one.tsv", drawing=Drawing(6, 1.0))
    predict(one)
    many = plan_of(tmp_path, source, "many.tsv", drawing=Drawing(6, 1.0), processes=count)
    predict(many)
    assert many.output.read_bytes() == one.output.read_bytes()


def server_plan(tmp_path, url, **how):
    spec = EndpointSpec("m", url, "NO_KEY", concurrency=2, retries=0)
    return plan_of(tmp_path, tmp_path / "in.tsv", endpoint=spec, **how)


def test_a_server_answers_too_and_gets_whole_pictures(tmp_path):
    write_tsv(tmp_path / "in.tsv", 3)
    with (tmp_path / "in.tsv").open("ab") as file:
        file.write(
            b"cut\t" + text_of(encoded(5, "JPEG")[:-200]) + b"\nbad\t" + text_of(b"x") + b"\n"
        )

    def script(body, times):
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        return f"a {url[5:14]}\npicture"

    with endpoint(script) as server:
        plan = server_plan(tmp_path, server.url)
        done = predict(plan)
    assert [text for _, text in lines_of(plan)] == ["a image/png picture"] * 4 + ["一张图片"]
    assert (done.summary.damaged, len(server.asked)) == (1, 4)
    assert "4 replies" in done.usage[0]
    assert server.asked[0]["messages"][0]["content"][1] == {"type": "text", "text": ASK}


def test_replies_of_a_server_are_not_paid_twice(tmp_path):
    write_tsv(tmp_path / "in.tsv", 6)
    died = threading.Event()

    def script(body, times):
        first = not died.is_set() and "max_tokens" in body and len(server.asked) > 3
        return 401 if first else "words"

    with endpoint(script) as server:
        plan = server_plan(tmp_path, server.url)
        with pytest.raises(Exception, match="401"):
            predict(plan)
        died.set()
        before = len(server.asked)
        predict(plan)
        assert len(server.asked) - before <= 4
    assert lines_of(plan) == [[f"ad{n}", "words"] for n in range(6)]
    assert not list(tmp_path.glob(".out*"))


def test_a_model_that_answers_no_row_is_told_of_at_once(tmp_path):
    hope = Hope(2)
    refused = Answer(0, 0, "a", reason="conversation too long", detail="900 tokens")
    hope.see([refused])
    with pytest.raises(ModelError, match="no row was answered; the first: conversation too long"):
        hope.see([refused])
    other = Hope(1)
    other.see([Answer(0, 0, "a", reason="picture cannot be read")])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.tsv", None, "gone.tsv: no such input file or folder"),
        ("empty.tsv", b"", "empty.tsv is empty"),
        ("odd.bin", b"\x00\x01\x02", "odd.bin is in no format known here"),
        ("rows.jsonl", b"\n\n", "rows.jsonl holds no row"),
    ],
)
def test_an_input_without_rows_is_one_line(tmp_path, name, content, words):
    model_in(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        predict(plan_of(tmp_path, tmp_path / name, "out.jsonl"))
    assert not list(tmp_path.glob("*out.jsonl*"))


def test_an_output_that_is_there_stays(tmp_path):
    model_in(tmp_path)
    plan = plan_of(tmp_path, write_tsv(tmp_path / "in.tsv", 2))
    plan.output.write_text("mine")
    with pytest.raises(DataError, match=r"out\.tsv exists; remove it, name another, or give --ov"):
        predict(plan)
    with pytest.raises(DataError, match="is the input"):
        predict(replace(plan, output=plan.source.path, overwrite=True))
    with pytest.raises(DataError, match="no such folder for the answers"):
        predict(replace(plan, output=tmp_path / "no/out.tsv"))
    with pytest.raises(DataError, match="is a folder"):
        predict(replace(plan, output=tmp_path))
    with pytest.raises(DataError, match="--to xml"):
        predict(replace(plan, to="xml", overwrite=True))
    assert plan.output.read_text() == "mine"
    predict(replace(plan, overwrite=True))
    assert len(lines_of(plan)) == 2


def test_the_only_folder_in_a_folder_is_the_model(tmp_path):
    model = model_in(tmp_path / "weights")
    assert find_model(tmp_path / "weights") == model == find_model(model)
    picture(1).save(tmp_path / "weights/x.png")
    assert find_model(tmp_path / "weights") == tmp_path / "weights"
    with pytest.raises(DataError, match="no such model folder"):
        find_model(tmp_path / "none")


@pytest.mark.parametrize("layout", ["qwen_vl", "paddle"])
def test_a_qwen_vl_folder_captions_ads_with_the_common_prompt(tmp_path, layout):
    model = tiny_qwen.published(tmp_path / "qwen")
    if layout == "paddle":
        (tmp_path / "paddle").mkdir()
        index.find("paddle").write(index.read_checkpoint(model), tmp_path / "paddle", Writing())
        model = tmp_path / "paddle"
    write_tsv(tmp_path / "in.tsv", 5)
    plan = plan_of(tmp_path, tmp_path / "in.tsv", model=str(model), prompt="", drawing=Drawing(12))
    predict(plan)
    chat = LocalChat(load_model(model, "cpu"))
    turns = (Turn("user", f"<image>\n{PROMPT}"),)
    wanted = [chat.answer([Sample("x", (encoded(n),), turns)], 12)[0].text for n in range(5)]
    assert [name for name, _ in lines_of(plan)] == [f"ad{n}" for n in range(5)]
    json_plan = replace(plan, output=tmp_path / "out.jsonl")
    predict(json_plan)
    rows = [json.loads(line) for line in json_plan.output.read_text("utf-8").splitlines()]
    assert [row["answer"] for row in rows] == wanted
    assert len(set(wanted)) > 2
