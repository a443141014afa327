"""What the chat page's server takes, gives, refuses and removes."""

from __future__ import annotations

import concurrent.futures
import fcntl
import io
import json
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import httpx
import pytest

from tests.serving.made_web import (
    picture,
    serving,
    talker,
    until,
    visiting,
    write_picture,
)
from tests.serving.patience import PATIENCE_S
from vlforge.data.formats.llava import LlavaFormat
from vlforge.serving.talking import Talker
from vlforge.serving.web import rooms as rooms_of
from vlforge.serving.web.door import Login, is_same_origin
from vlforge.serving.web.hall import Hall, read_examples
from vlforge.serving.web.pictures import plain_name
from vlforge.serving.web.rooms import Bounds, Rooms
from vlforge.serving.web.votes import Votes
from vlforge.types import DataError, Drawing, Piece, WriteError

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def enter(client) -> str:
    """The address of a new room."""
    return f"/api/rooms/{client.post('/api/rooms').json()['room']}"


def send(client, room: str, content: bytes, name: str = "a.png"):
    """The answer to a picture that is sent."""
    return client.post(f"{room}/pictures", params={"name": name}, content=content)


def asked(*exchanges, **more) -> dict:
    """A request for an answer; exchanges are (question, pictures, answer)."""
    names = ("question", "pictures", "answer")
    told = [dict(zip(names, one, strict=False)) for one in exchanges]
    return {"exchanges": told, **more}


def events(answer) -> list[dict]:
    """The lines of an answer."""
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def ask(client, room: str, *exchanges, **more) -> str:
    """The whole text of an answer."""
    told = events(client.post(f"{room}/answers", json=asked(*exchanges, **more)))
    return "".join(event.get("text", "") for event in told)


def drawn(told: list[dict]) -> list[dict]:
    """The lines of an answer but those that tell a place in line: how many depends on the time."""
    return [event for event in told if "place" not in event]


def claimed(width: int, height: int) -> bytes:
    """A PNG whose header claims so many pixels and that holds none."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_pictures_and_a_question_become_the_sample_that_every_surface_draws():
    with visiting() as (client, hall):
        room = enter(client)
        one, two = (send(client, room, picture(colour=c)).json() for c in ("red", "blue"))
        assert (one["name"], one["width"], one["height"]) == ("a.png", 64, 48)
        first, second = one["number"], two["number"]
        settings = {"temperature": 0.5, "top_p": 0.9, "beams": 2, "max_tokens": 9, "seed": 7}
        text = ask(client, room, ("What?", [first], "A cat. <image>"), ("<image> or?", [second]),
                   system="Be short.", settings=settings)  # fmt: skip
        sample, drawing, key = hall.talkers[0].speaker.asked[0]
        seen = [Path(path).read_bytes() for path in sample.images]
        assert [(t.role, t.text) for t in sample.turns] == [
            ("system", "Be short."), ("user", "<image>\nWhat?"), ("assistant", "A cat."),
            ("user", "<image> or?"),
        ]  # fmt: skip
        assert seen == [
            picture(colour="red"), picture(colour="blue"),
        ]  # fmt: skip
        assert (drawing, key) == (Drawing(9, 0.5, 0.9, 2), 7)
        assert text == "4 turns, 2 pictures, key 7: <image> or?"


def test_an_answer_comes_line_by_line_and_says_how_it_ended():
    with visiting(talker(lambda *_: "one two three")) as (client, _):
        room = enter(client)
        told = events(client.post(f"{room}/answers", json=asked(("hello",))))
        assert "place" in told[0]
        assert [event["text"] for event in drawn(told)] == ["one", " two", " three"]
        assert (told[-1]["ended"], told[-1]["tokens"]) == ("stop", 3)
        cut = asked(("hello",), settings={"max_tokens": 2})
        assert events(client.post(f"{room}/answers", json=cut))[-1]["ended"] == "length"


@pytest.mark.parametrize(
    ("content", "name", "status", "words"),
    [
        (claimed(20_000, 10_000), "huge.png", 413, "huge.png has 20000 × 10000 pixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", 415, "a.svg is no picture"),
        (b"<?xml version='1.0'?><svg/>", "a.png", 415, "a.png is no picture"),
        (b"PK\x03\x04" + bytes(99), "zip.jpg", 415, "zip.jpg is no picture"),
        (picture((400, 300), kind="JPEG")[:700], "cut.jpg", 415, "cut.jpg is cut off or damaged"),
        (b"\x89PNG\r\n\x1a\n", "head.png", 415, "head.png is cut off or damaged"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "sound.webp", 415, "sound.webp is"),
        (b"", "empty.png", 415, "empty.png is no picture"),
        (b"\xff\xd8" + bytes(2_000_000), "big.jpg", 413, "big.jpg has more than 1 MB"),
    ],
)
def test_what_is_no_good_picture_is_refused_and_leaves_nothing(content, name, status, words):
    with visiting(bounds=Bounds(bytes=1 << 20)) as (client, hall):
        room = enter(client)
        answer = send(client, room, content, name)
        assert answer.status_code == status
        assert words in answer.json()["detail"]
        assert hall.rooms.held == 0
        files = [path.name for path in hall.rooms.folder.rglob("*") if path.is_file()]
        assert files == [".alive"]
        assert send(client, room, picture()).status_code == 200


def test_names_lose_folders_and_what_would_move_other_text():
    assert plain_name("C:\\photos\\..\\cat.png") == "cat.png"
    assert plain_name("../../etc/passwd") == "passwd"
    assert plain_name("a\u202egpj.exe\x00\n") == "agpj.exe"
    assert plain_name("") == "picture"
    assert plain_name(HOSTILE.replace("/", "")) == HOSTILE.replace("/", "")


def test_a_picture_is_shown_made_anew_and_only_to_its_own_page():
    with visiting() as (client, _):
        room, other = enter(client), enter(client)
        polyglot = picture() + b"<script>alert(1)</script>"
        number = send(client, room, polyglot).json()["number"]
        path = room.replace("/api/rooms", "/picture")
        shown = client.get(f"{path}/{number}")
        assert shown.headers["content-type"] in ("image/jpeg", "image/png")
        assert b"script" not in shown.content
        assert client.get(f"{other.replace('/api/rooms', '/picture')}/{number}").status_code == 404
        assert client.get(f"{path}/99").status_code == 404


def test_a_hundred_uploads_at_once_fill_the_room_and_no_more():
    with visiting() as (client, hall), serving(hall) as url:
        room = url + enter(client)[1:]
        content = picture((300, 200))
        pool = concurrent.futures.ThreadPoolExecutor(100)
        with httpx.Client(timeout=PATIENCE_S) as web, pool as many:
            jobs = [many.submit(send, web, room, content, f"{n}.png") for n in range(100)]
            codes = [job.result().status_code for job in jobs]
        assert sorted(codes) == [200] * 16 + [409] * 84
        assert hall.rooms.held == 16 * len(content)


def test_the_disk_that_all_rooms_share_is_bounded_and_given_back():
    content = picture()
    with visiting(bounds=Bounds(held=2 * len(content))) as (client, hall):
        room, other = enter(client), enter(client)
        kept = send(client, room, content).json()
        send(client, other, content)
        refused = send(client, room, content)
        assert (refused.status_code, "no room" in refused.json()["detail"]) == (503, True)
        client.delete(f"{room}/pictures/{kept['number']}")
        assert send(client, room, content).status_code == 200
        client.post(f"{room}/leave?at_once")
        assert hall.rooms.held == len(content)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 422, "not understood"),
        (asked(), 422, "exchanges"),
        (asked((" ",)), 422, "needs a question"),
        (asked(("a", [], "b")), 422, "needs a question and no answer"),
        (asked(("a", [7])), 404, "a picture of this conversation is gone"),
        (asked(("<image> <image>",)), 422, "<image> 2 times and has 0 pictures"),
        (asked(("a",), model=1), 422, "model 1: there are 1"),
        (asked(("a",), settings={"beams": 9}), 422, "beams is 9; at most 8 here"),
        (asked(("a",), settings={"max_tokens": 9999}), 422, "at most 2048 here"),
        (asked(("a",), settings={"temperature": -1}), 422, "temperature"),
        (asked(("a",), settings={"top_p": "all"}), 422, "top_p"),
        (asked(("a",), more=1), 422, "more"),
        (asked(("a" * 100_001,)), 413, "at most 100000"),
        (asked(*[("a", [], "b")] * 200, ("a",)), 422, "more than 200 questions"),
        (b'"' + b"a" * (5 << 20) + b'"', 413, "more than 4 MB"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(body, status, words):
    with visiting() as (client, hall):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"content-type": "application/json"}
        answer = client.post(f"{enter(client)}/answers", content=content, headers=head)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True)
        assert hall.talkers[0].speaker.asked == []


def test_a_refusal_and_a_fault_in_the_middle_are_told_and_the_next_is_answered(caplog):
    class Breaking:
        def stream_many(self, samples, drawing, keys):
            yield Piece(0, "half an")
            if "break" in samples[0].turns[-1].text:
                raise RuntimeError(f"cannot open {samples[0].images}")
            yield Piece(0, " answer", "stop", 1, 2)

    with visiting(talker(), Talker(Breaking(), "broken")) as (client, _):
        room = enter(client)
        told = events(client.post(f"{room}/answers", json=asked(("refuse",))))
        assert told[-1] == {"fault": "cannot: not this one"}
        told = events(client.post(f"{room}/answers", json=asked(("break",), model=1)))
        assert drawn(told) == [
            {"text": "half an"},
            {"fault": "the model failed (RuntimeError); its terminal says more"},
        ]
        assert "cannot open" in caplog.text
        assert ask(client, room, ("go",), model=1) == "half an answer"


def test_a_fault_names_a_picture_as_its_owner_does(tmp_path):
    def reply(sample, drawing, key):
        raise DataError(f"image {sample.images[0]} is cut off")

    with visiting(talker(reply)) as (client, _):
        room = enter(client)
        number = send(client, room, picture(), "cat.png").json()["number"]
        told = events(client.post(f"{room}/answers", json=asked(("what?", [number]))))
        assert told[-1] == {"fault": "image cat.png is cut off"}


def test_who_waits_sees_the_place_in_line_and_a_full_line_takes_no_more():
    goes = threading.Semaphore(0)
    slow = talker(lambda *_: "a b", goes=goes.acquire)
    slow.batch, slow.waiting = 1, 2
    places: list[list[int]] = [[], [], []]
    with visiting(slow) as (client, hall), serving(hall) as url:
        room = url + enter(client)[1:]

        def listen(count: int) -> str:
            ask = asked((f"question {count}",))
            texts = []
            with httpx.stream("POST", f"{room}/answers", json=ask, timeout=PATIENCE_S) as heard:
                for event in map(json.loads, heard.iter_lines()):
                    places[count] += [event["place"]] if "place" in event else []
                    texts.append(event.get("text", ""))
            return "".join(texts)

        with concurrent.futures.ThreadPoolExecutor(3) as many:
            jobs = []
            for count in range(3):
                jobs.append(many.submit(listen, count))
                until(lambda count=count: places[count][-1:] == [count])
            late = f"{url}{enter(client)[1:]}/answers"
            full = httpx.post(late, json=asked(("late",)), timeout=PATIENCE_S)
            assert (full.status_code, "2 requests wait" in full.json()["detail"]) == (503, True)
            for left in (1, 0):
                goes.release(2)
                until(lambda left=left: places[2][-1] == left)
            goes.release(2)
            assert [job.result() for job in jobs] == ["a b"] * 3
    assert places[2][-3:] == [2, 1, 0]


def test_a_page_that_goes_away_stops_its_answer_even_in_line():
    goes = threading.Semaphore(0)
    slow = talker(lambda *_: "word " * 100_000, goes=goes.acquire)
    slow.batch = 1
    with visiting(slow) as (client, hall), serving(hall) as url:
        room = url + enter(client)[1:]
        how = {"timeout": PATIENCE_S}
        with httpx.stream("POST", f"{room}/answers", json=asked(("one",)), **how) as first:
            # Kept: an iterator that is dropped closes its answer.
            begun = first.iter_lines()
            next(begun)
            until(lambda: slow.speaker.asked)
            with httpx.stream("POST", f"{room}/answers", json=asked(("two",)), **how) as second:
                waits = second.iter_lines()
                next(waits)
                assert slow.in_line == 2
        (found,) = hall.rooms._rooms.values()
        until(lambda: not found.asking)
        goes.release(5)
        until(lambda: slow.in_line == 0)
        assert slow.speaker.closed == 1
        assert len(slow.speaker.asked) == 1


def test_one_page_holds_only_some_answers_at_once():
    goes = threading.Semaphore(0)
    slow = talker(lambda *_: "a", goes=goes.acquire)
    with visiting(slow, bounds=Bounds(asks=1)) as (client, hall), serving(hall) as url:
        room = url + enter(client)[1:]
        how = {"timeout": PATIENCE_S}
        with httpx.stream("POST", f"{room}/answers", json=asked(("one",)), **how):
            until(lambda: slow.in_line == 1)
            again = httpx.post(f"{room}/answers", json=asked(("two",)), **how)
            assert again.status_code == 429
            goes.release()


def test_votes_are_lines_with_all_that_they_are_about(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"cut": ')
    models = talker(lambda *_: f"left {HOSTILE}", "a/m"), talker(lambda *_: "right", "b/m")
    with visiting(*models, votes=Votes(path)) as (client, _):
        room = enter(client)
        number = send(client, room, picture(), "cat.png").json()["number"]
        both = [
            events(client.post(f"{room}/answers", json=asked(("Which?", [number]), model=model)))
            for model in (0, 1)
        ]
        left, right = (told[0]["id"] for told in both)
        vote = {"left": left, "right": right, "vote": "right", "hidden": True}
        assert client.post(f"{room}/votes", json=vote).json() == {"count": 1}
        client.post(f"{room}/votes", json=vote | {"vote": "both bad"})
        cut, first, second = path.read_text().splitlines()
        told = json.loads(first)
        assert (cut, told["winner"], told["question"], told["hidden"]) == (
            '{"cut": ', "b/m", "Which?", True,
        )  # fmt: skip
        assert told["left"]["answer"] == f"left {HOSTILE}"
        assert told["left"]["settings"]["temperature"] == 0.0
        assert told["pictures"][0]["name"] == "cat.png"
        assert len(told["pictures"][0]["sha256"]) == 64
        assert (json.loads(second)["winner"], json.loads(second)["pair"]) == (None, told["pair"])
        assert client.post(f"{room}/votes", json=vote | {"vote": "up"}).status_code == 422
        assert client.post(f"{room}/votes", json=vote | {"left": "x"}).status_code == 404
        other = events(client.post(f"{room}/answers", json=asked(("Another?",))))[0]["id"]
        mixed = client.post(f"{room}/votes", json=vote | {"left": other})
        assert "different questions" in mixed.json()["detail"]


def test_votes_that_cannot_be_written_are_told_before_or_at_once(tmp_path):
    with pytest.raises(WriteError, match="is a folder"):
        Votes(tmp_path)
    with pytest.raises(WriteError, match="cannot be written"):
        Votes(tmp_path / "nowhere" / "votes.jsonl")
    path = tmp_path / "later" / "votes.jsonl"
    path.parent.mkdir()
    with visiting(votes=Votes(path)) as (client, _):
        path.parent.rmdir()
        room = enter(client)
        name = events(client.post(f"{room}/answers", json=asked(("a",))))[0]["id"]
        vote = {"left": name, "right": name, "vote": "tie"}
        refused = client.post(f"{room}/votes", json=vote)
        assert refused.status_code == 507
        assert refused.json()["detail"].startswith("the vote cannot be written: No such file")


def test_a_saved_conversation_is_a_data_set_that_reads_again(tmp_path):
    with visiting() as (client, _):
        room = enter(client)
        number = send(client, room, picture(kind="JPEG"), "../a cat <1>.jpg").json()["number"]
        talk = asked(("What?", [number], "A cat."), ("Sure?", [], "Yes."), system="Be kind.")
        data = client.post(f"{room}/save", json=[talk]).content
        assert client.post(f"{room}/save", json=[]).status_code == 422
        assert client.post(f"{room}/save", json=[talk | {"model": 3}]).status_code == 422
    zipfile.ZipFile(io.BytesIO(data)).extractall(tmp_path)
    (row,) = json.loads((tmp_path / "conversation.json").read_text())
    assert row["model"] == "parrot"
    (record,) = LlavaFormat().read(tmp_path / "conversation.json")
    assert [(turn.role, turn.text) for turn in record.turns] == [
        ("system", "Be kind."), ("user", "<image>\nWhat?"), ("assistant", "A cat."),
        ("user", "Sure?"), ("assistant", "Yes."),
    ]  # fmt: skip
    assert (tmp_path / row["image"]).read_bytes() == picture(kind="JPEG")


def test_examples_are_pictures_with_the_question_beside_them(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", colour="red")
    write_picture(tmp_path / "b.JPG", kind="JPEG")
    (tmp_path / "a.txt").write_text("What colour?\n")
    with visiting(examples=read_examples(tmp_path)) as (client, _):
        about = client.get("/api/about").json()
        assert about["examples"] == [
            {"name": "a.png", "question": "What colour?", "side": 64},
            {"name": "b.JPG", "question": "", "side": 64},
        ]  # fmt: skip
        assert client.get("/example/1").headers["content-type"] == "image/jpeg"
        assert client.get("/example/2").status_code == 404
        room = enter(client)
        kept = client.post(f"{room}/examples/0").json()
        assert ask(client, room, ("What?", [kept["number"]])).startswith("1 turns, 1 pictures")
        assert client.post(f"{room}/examples/2").status_code == 404
    with pytest.raises(DataError, match="holds no pictures"):
        read_examples(tmp_path / "..")
    (tmp_path / "c.png").write_text("none")
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    with pytest.raises(DataError, match=r"--examples: c\.png is no picture"):
        Hall([talker()], examples=read_examples(tmp_path))
    assert list(kept.iterdir()) == []


def test_few_resources_mean_one_beam():
    with visiting(low_resource=True) as (client, _):
        assert client.get("/api/about").json()["bounds"]["beams"] == 1
        body = asked(("a",), settings={"beams": 2})
        assert client.post(f"{enter(client)}/answers", json=body).status_code == 422


def test_rooms_go_when_left_or_idle_and_come_back_when_loaded_again(tmp_path):
    now = [0.0]
    rooms = Rooms(Bounds(idle_s=3600, grace_s=60, rooms=2), clock=lambda: now[0])
    left, idle = rooms.open(), rooms.open()
    with pytest.raises(rooms_of.Refused, match="2 people are here"):
        rooms.open()
    rooms.leave(left.key)
    now[0] = 59
    assert rooms.find(left.key) is left
    rooms.leave(left.key)
    now[0] = 121
    rooms.sweep()
    assert not left.folder.exists()
    assert idle.folder.exists()
    now[0] = 3601
    rooms.sweep()
    assert len(rooms) == 0
    assert not idle.folder.exists()
    rooms.close()
    assert not rooms.folder.exists()


def test_folders_of_killed_processes_are_removed_and_those_of_living_ones_stay(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "vlforge-web-dead"
    (dead / "room").mkdir(parents=True)
    (dead / ".alive").touch()
    (dead / "room" / "1").write_bytes(picture())
    living = Rooms(Bounds())
    assert not dead.exists()
    other = Rooms(Bounds())
    assert living.folder.exists()
    for rooms in (living, other):
        rooms.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_makes_just_now_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lock = fcntl.flock

    def lock_late(file, how):
        monkeypatch.setattr("fcntl.flock", lock)
        rooms_of.remove_forsaken()  # as another one does at its start
        lock(file, how)

    monkeypatch.setattr("fcntl.flock", lock_late)
    rooms = Rooms(Bounds())
    assert rooms.open().folder.is_dir()
    rooms_of.remove_forsaken()
    assert rooms.folder.is_dir()
    rooms.close()


def test_other_sites_and_names_get_nothing():
    with visiting() as (client, hall):
        evil = {"host": "evil.example"}
        assert client.get("/", headers=evil).status_code == 403
        assert client.get("/api/about", headers={"sec-fetch-site": "cross-site"}).status_code == 403
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9"):
            assert client.post("/api/rooms", headers={"origin": origin}).status_code == 403
        own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
        assert client.post("/api/rooms", headers=own).status_code == 200
        assert len(hall.rooms) == 1
        page = client.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        for path in ("/static/../app.py", "/static/%2e%2e%2fweb.py", "/static/index.html"):
            assert client.get(path).status_code == 404
    assert is_same_origin("https://chat.example", "chat.example")
    assert not is_same_origin("https://chat.example", "chat.example:80")


def test_a_form_of_another_site_cannot_ask():
    with visiting() as (client, _):
        body = json.dumps(asked(("a",)))
        head = {"content-type": "text/plain"}
        refused = client.post(f"{enter(client)}/answers", content=body, headers=head)
        assert refused.status_code == 415


def test_a_login_is_asked_for_and_its_cookie_lets_in():
    now = [0.0]
    login = Login("ada", "correct horse", clock=lambda: now[0])
    with visiting(login=login) as (client, _):
        assert "Log in" in client.get("/").text
        assert client.get("/static/web.css").status_code == 200
        assert client.get("/static/web.js").status_code == 401
        assert client.get("/api/about").status_code == 401
        assert client.post("/api/rooms").status_code == 401
        wrong = client.post("/api/login", json={"user": "ada", "password": "wrong"})
        assert (wrong.status_code, wrong.headers.get("set-cookie")) == (401, None)
        right = client.post("/api/login", json={"user": "ada", "password": "correct horse"})
        cookie = right.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
        assert client.get("/api/about").status_code == 200
        assert "Skip to the question" in client.get("/").text
        now[0] = 90_000
        assert client.get("/api/about").status_code == 401


def test_guessing_a_password_has_to_wait():
    now = [0.0]
    login = Login("ada", "x", clock=lambda: now[0])
    assert [login.enter("ada", str(n), "1.2.3.4") for n in range(9)] == [None] * 8 + [""]
    assert login.enter("ada", "x", "1.2.3.4") == ""
    assert login.enter("ada", "x", "5.6.7.8")
    now[0] = 61
    assert login.enter("ada", "x", "1.2.3.4")
    assert "x" not in repr(Login("ada", "x"))


def test_hostile_words_come_back_as_they_went():
    with visiting(talker(lambda *_: HOSTILE)) as (client, _):
        room = enter(client)
        answer = client.post(f"{room}/answers", json=asked((HOSTILE,)))
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "".join(event.get("text", "") for event in events(answer)) == HOSTILE
        kept = send(client, room, picture(), HOSTILE.replace("/", ""))
        assert kept.json()["name"] == HOSTILE.replace("/", "")


def test_half_a_surrogate_pair_stops_nothing():
    with visiting(talker(lambda *_: "ok")) as (client, _):
        room = enter(client)
        body = b'{"exchanges": [{"question": "\\ud83d"}]}'
        head = {"content-type": "application/json"}
        answer = client.post(f"{room}/answers", content=body, headers=head)
        assert answer.status_code in (200, 422)
