"""What the viewer's page is told: rows, searches, comparisons, and only the pictures of rows."""

from __future__ import annotations

import json
import os
import re
import struct
import zlib

import pytest

from tests.serving.made_view import (
    caption,
    numbers,
    reading,
    rows_of,
    text_of,
    viewing,
    write_picture,
    write_rows,
    write_work,
)
from vlforge.serving.viewer.guard import is_own_host
from vlforge.serving.viewer.server import PAGES
from vlforge.serving.viewer.sources import open_sources

HOSTILE = "</script><img src=x onerror=alert(1)> {{7*7}} ' \" & \u2028 \u202e"


def test_rows_come_by_pages(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [caption(n, f"number {n}") for n in range(45)])
    with viewing(path) as client:
        page = client.get("/api/sets/data/rows?start=40&count=20").json()
        assert numbers(page["rows"]) == [40, 41, 42, 43, 44]
        assert page["total"] == 45
        assert client.get("/api/sets/data/rows?start=99").json()["rows"] == []
        assert (
            client.get("/api/sets/data/rows?start=-5&count=9999").json()["rows"][0]["number"] == 0
        )


def test_a_conversation_keeps_roles_and_the_places_of_pictures(tmp_path):
    turns = [
        {"from": "human", "value": "Is <image> like <image>?"},
        {"from": "gpt", "value": "No, <image> is."},
    ]
    row = {"id": 7, "image": ["a.png", "b.png", "c.png"], "conversations": turns, "source": "made"}
    with viewing(write_rows(tmp_path / "d.jsonl", [row])) as client:
        (told,) = rows_of(client)
    assert [turn["role"] for turn in told["said"]] == ["user", "assistant"]
    assert text_of(told) == "Is [0] like [1]?|No, [2] is."
    assert told["pictures"] == ["a.png", "b.png", "c.png"]
    assert told["extra"] == [["source", "made"]]


def test_hostile_text_stays_text(tmp_path):
    row = caption(0, HOSTILE, HOSTILE, **{HOSTILE: HOSTILE})
    row["id"] = HOSTILE
    with viewing(write_rows(tmp_path / "d.jsonl", [row])) as client:
        answer = client.get("/api/sets/data/rows")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        told = answer.json()["rows"][0]
        assert text_of(told) == f"[0] {HOSTILE}"
        assert told["id"] == HOSTILE
        assert numbers(rows_of(client, text="</SCRIPT><img")) == [0]


def test_a_row_that_is_none_costs_itself(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [caption(0, "good"), '{"id": ', caption(2, "good")])
    with viewing(path) as client:
        rows = rows_of(client)
        assert [row["fault"] is None for row in rows] == [True, False, True]
        reason = rows[1]["fault"]["reason"]
        assert reason == "not JSON"
        assert numbers(rows_of(client, op="read", reason=reason)) == [1]
        told = client.get("/api/sets/data/survey").json()["reasons"]
        assert told == [{"op": "read", "reason": reason, "rows": 1}]


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        ({"text": "CAT"}, [0, 2]),
        ({"text": "cat", "field": "text"}, [0]),
        ({"text": "cat", "field": "id"}, [2]),
        ({"text": "É"}, [1]),
        ({"text": "猫"}, [2]),
        ({"text": "cat", "stat": "score", "low": 0.9}, []),
        ({"stat": "score", "low": 0.2, "high": 0.5}, [0, 1]),
        ({"stat": "sizes", "low": 900}, [2]),
        ({"stat": "nobody", "low": 0}, []),
        ({"stat": "text_chars", "high": 3}, [2]),
    ],
)
def test_search_and_statistics_find_rows(tmp_path, ask, expected):
    rows = [
        caption(0, "a grey Cat", score=0.2, sizes=[1, 2]),
        caption(1, "café au lait", score=0.5, sizes=[3]),
        caption(2, "猫", __dj__stats__={"score": True, "sizes": [3, 1000]}),
    ]
    rows[2]["id"] = "cat-2"
    with viewing(write_rows(tmp_path / "d.jsonl", rows)) as client:
        assert numbers(rows_of(client, **ask)) == expected


def test_a_survey_tells_ranges_and_shapes(tmp_path):
    rows = [caption(n, "same", score=n / 10) for n in range(11)]
    with viewing(write_rows(tmp_path / "d.jsonl", rows)) as client:
        told = client.get("/api/sets/data/survey").json()
    score = next(stat for stat in told["stats"] if stat["name"] == "score")
    assert (score["low"], score["high"], sum(score["bins"])) == (0.0, 1.0, 11)
    assert told["looked_at"] == told["rows"] == 11


def test_a_work_folder_shows_kept_dropped_and_changed_rows(tmp_path):
    with viewing(write_work(tmp_path / "work")) as client:
        sets = client.get("/api/about").json()["sets"]
        assert [(one["name"], one["rows"]) for one in sets] == [
            ("kept", 2), ("dropped", 2), ("changed", 1),
        ]  # fmt: skip
        kept = rows_of(client, "kept")
        assert ["text_len", "14"] in kept[0]["stats"]
        assert numbers(rows_of(client, "kept", stat="image_width", low=800)) == [0]
        short, broken = rows_of(client, "dropped")
        assert short["fate"] == {
            "op": "text_length_filter", "reason": "text_len too low", "stat": "text_len",
            "value": "5", "bound": ">= 10",
        }  # fmt: skip
        assert (short["line"], text_of(short)) == (2, "short")
        assert broken["fault"]["reason"] == "broken line"
        assert numbers(rows_of(client, "dropped", reason="text_len too low")) == [0]
        (changed,) = rows_of(client, "changed")
        assert [turn["role"] for turn in changed["said"]] == ["before", "after"]
        marked = [part for turn in changed["said"] for part in turn["parts"] if part["mark"]]
        assert [(part["text"], part["mark"]) for part in marked] == [
            ("lnog", "gone"), ("long", "new"),
        ]  # fmt: skip


def test_an_exported_file_brings_its_dropped_rows(tmp_path):
    write_work(tmp_path / "data.process")
    path = write_rows(tmp_path / "data.jsonl", [caption(0, "a long caption")])
    assert [source.name for source in open_sources(path)] == ["kept", "dropped", "changed"]


def test_statistics_of_other_rows_are_not_shown(tmp_path):
    folder = write_work(tmp_path / "work")
    write_rows(folder / "data.jsonl", [caption(2, "moved"), caption(0, "moved")])
    with viewing(folder) as client:
        assert all("text_len" not in dict(row["stats"]) for row in rows_of(client, "kept"))


def test_a_file_of_statistics_beside_an_export_is_read_where_it_fits(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [caption(0, "x"), caption(1, "x")])
    stats = [{"__dj__stats__": {"text_len": 7}}, {"__dj__stats__": {"text_len": 8}}]
    write_rows(tmp_path / "d_stats.jsonl", stats)
    with viewing(path) as client:
        assert numbers(rows_of(client, stat="text_len", low=8)) == [1]
    write_rows(tmp_path / "d_stats.jsonl", stats[:1])
    with viewing(path) as client:
        assert rows_of(client, stat="text_len") == []


def test_two_datasets_stand_side_by_side_by_id(tmp_path):
    before = [caption(0, "a red car"), caption(1, "the same"), caption(2, "gone")]
    after = [caption(9, "new"), caption(1, "the same"), caption(0, "a blue car")]
    one = write_rows(tmp_path / "before.jsonl", before)
    two = write_rows(tmp_path / "after.jsonl", after)
    with viewing(one, two) as client:
        changed, same, gone = rows_of(client)
        assert [part for part in changed["said"][0]["parts"] if part["mark"]] == [
            {"text": "red", "mark": "gone"}
        ]
        assert [part for part in changed["other"]["said"][0]["parts"] if part["mark"]] == [
            {"text": "blue", "mark": "new"}
        ]
        assert same["other"]["is_same"]
        assert gone["other"] is None
        found = {ask: numbers(rows_of(client, state=ask)) for ask in ("changed", "same", "missing")}
        assert found == {"changed": [0], "same": [1], "missing": [2]}
        assert numbers(rows_of(client, "other", state="missing")) == [0]
        newer = rows_of(client, "other")[2]
        assert [part for part in newer["said"][0]["parts"] if part["mark"]] == [
            {"text": "blue", "mark": "new"}
        ]


def test_rows_without_ids_are_joined_by_number(tmp_path):
    one = write_rows(tmp_path / "before.jsonl", [{"text": "one"}, {"text": "two"}])
    two = write_rows(tmp_path / "after.jsonl", [{"text": "one"}, {"text": "too"}])
    with viewing(one, two) as client:
        assert not client.get("/api/about").json()["joined"]["is_by_id"]
        assert numbers(rows_of(client, state="changed")) == [1]


def test_pictures_come_small_and_large_and_may_be_kept(tmp_path):
    name = write_picture(tmp_path / "a.png", (1200, 600))
    with viewing(write_rows(tmp_path / "d.jsonl", [caption(0, "x", name)])) as client:
        small = client.get("/picture/data/0/0?side=thumb")
        large = client.get("/picture/data/0/0?side=whole")
        assert (small.status_code, small.headers["content-type"]) == (200, "image/jpeg")
        assert "max-age" in small.headers["cache-control"]
        assert len(small.content) < len(large.content)


def make_bomb(path):
    """A PNG of a few bytes whose header claims 90,000 pixels a side."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def test_what_is_no_picture_is_not_served(tmp_path):
    (tmp_path / "secret.png").write_text("password = 1234")
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    make_bomb(tmp_path / "bomb.png")
    os.mkfifo(tmp_path / "pipe.png")
    names = ["secret.png", "drawing.svg", "bomb.png", "pipe.png", "missing.png", "/dev/zero", "."]
    row = {"id": 0, "text": "<__dj__image>" * len(names), "images": names}
    with viewing(write_rows(tmp_path / "d.jsonl", [row])) as client:
        for place, name in enumerate(names):
            answer = client.get(f"/picture/data/0/{place}")
            assert answer.status_code == 404, name
            assert "password" not in answer.text
            assert str(tmp_path) not in answer.text
        assert client.get("/picture/data/0/4").json()["detail"].startswith("missing image")


@pytest.mark.parametrize(
    "path",
    [
        "/picture/data/0/9", "/picture/data/5/0", "/picture/data/-1/0", "/picture/data/0/-1",
        "/picture/nobody/0/0", "/picture/data/0/0?side=huge", "/picture/data/a.png/0",
        "/picture/data/%2e%2e%2fa.png/0", "/picture/a.png", "/a.png", "/static/..%2fviewer.js",
        "/static/server.py", "/picture/data/99999999999999999999999/0", "/docs", "/openapi.json",
    ],
)  # fmt: skip
def test_only_pictures_that_a_row_names_are_served(tmp_path, path):
    name = write_picture(tmp_path / "a.png")
    with viewing(write_rows(tmp_path / "d.jsonl", [caption(0, "x", name)])) as client:
        assert client.get("/picture/data/0/0").status_code == 200
        assert client.get(path).status_code in (404, 422)


@pytest.mark.parametrize("path", ["/", "/api/about", "/api/sets/data/rows", "/picture/data/0/0"])
def test_a_foreign_name_or_page_is_refused(tmp_path, path):
    name = write_picture(tmp_path / "a.png")
    with viewing(write_rows(tmp_path / "d.jsonl", [caption(0, "x", name)])) as client:
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"Host": "evil.example:8000"}).status_code == 403
        cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert client.get(path, headers=cross).status_code == 403
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("host", "is_open", "expected"),
    [
        ("127.0.0.1:8000", False, True),
        ("localhost", False, True),
        ("[::1]:80", False, True),
        ("192.168.0.7:80", False, False),
        ("192.168.0.7:80", True, True),
        ("127.0.0.1.evil.example", False, False),
        ("evil.example", True, False),
        ("", False, False),
        ("", True, False),
    ],
)
def test_a_host_is_ours_by_address_not_by_name(host, is_open, expected):
    assert is_own_host(host, is_open=is_open) is expected


def test_asking_for_what_is_not_there_is_an_answer(tmp_path):
    with viewing(write_rows(tmp_path / "d.jsonl", [caption(0, "x")])) as client:
        assert client.get("/api/sets/nobody/rows").status_code == 404
        assert client.get("/api/sets/nobody/survey").status_code == 404
        assert client.get("/api/sets/data/rows?scan=77").status_code == 404
        assert client.get("/api/scans/77").status_code == 404
        assert client.delete("/api/scans/77").status_code == 404
        assert client.post("/api/sets/data/scans", json={"sql": "x"}).status_code == 422
        assert client.post("/api/sets/data/scans", json={"text": "x" * 501}).status_code == 422


def test_only_the_last_searches_are_kept(tmp_path):
    with viewing(write_rows(tmp_path / "d.jsonl", [caption(0, "x")])) as client:
        scans = [
            client.post("/api/sets/data/scans", json={"text": "x"}).json()["scan"] for _ in "x" * 9
        ]
        assert client.get(f"/api/scans/{scans[0]}").status_code == 404
        assert client.get(f"/api/scans/{scans[-1]}").status_code == 200
        assert client.delete(f"/api/scans/{scans[-1]}").json() == {"is_cancelled": True}


def test_an_open_server_answers_to_its_address(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [caption(0, "x")])
    with reading(open_sources(path), is_open=True) as client:
        assert client.get("/api/about", headers={"Host": "10.1.2.3:99"}).status_code == 200
        assert client.get("/api/about", headers={"Host": "evil.example"}).status_code == 403


def test_the_page_needs_nothing_from_outside():
    for path in PAGES.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), path.name
    html = (PAGES / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", html)
    script = (PAGES / "viewer.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)


@pytest.mark.parametrize(
    "text", ['say "hi"', "a\\b", "猫 cat", "Ünder", "two\nlines", "<image>", "a/b"]
)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_words_are_found_however_json_writes_them(tmp_path, text, is_ascii):
    path = tmp_path / "d.jsonl"
    rows = [{"id": 1, "text": f"before {text} after"}, {"id": 2, "text": "other"}]
    lines = [json.dumps(row, ensure_ascii=is_ascii).replace("/", "\\/") for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    with viewing(path) as client:
        assert numbers(rows_of(client, text=text.upper())) == [0]
        assert numbers(rows_of(client, text=text.lower(), field="text")) == [0]
