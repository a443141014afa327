"""Files that rows name are fetched whole, within limits, and from the public web only."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.files import web
from vlforge.ops.files.transfer import FetchError, claimed_name, file_name
from vlforge.types import DataError, RecipeError

NAME = "download_file_mapper"


class Site(BaseHTTPRequestHandler):
    """A small site; what was asked of it stands in the server's `asked`."""

    def do_GET(self) -> None:
        """Pages by their path."""
        self.server.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        body = f"body of {self.path}".encode()
        self.send_response(200)
        if self.path == "/cut":
            self.send_header("Content-Length", str(len(body) + 10))
        elif self.path != "/endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.path != "/endless" else b"x" * 100_000)

    def log_message(self, *_: object) -> None:
        """Silence."""


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that hang up: it would be read as what a later test says."""

    def handle_error(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def site(monkeypatch):
    """A running site: its address, and the paths that were asked for."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    web._opener.cache_clear()
    server = Quiet(("127.0.0.1", 0), Site)
    server.asked = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()
    web._opener.cache_clear()


def fetched(values, **params):
    """Kept rows and drop records of some values of the field `url`."""
    rows = [value if isinstance(value, dict) else {"text": "", "url": value} for value in values]
    items = [Item(str(at), at + 1, row) for at, row in enumerate(rows)]
    params = {"download_field": "url", "allow_private": True, **params}
    out = run_in_memory(bind([{NAME: params}]), items, Context())
    return [item.row for item in out.kept], [drop for _, drop in out.dropped]


def test_files_go_to_a_folder_and_the_field_gets_their_paths(site, tmp_path):
    rows, _ = fetched([f"{site.url}/a.txt", [f"{site.url}/b.txt", f"{site.url}/a.txt"]],
                      save_dir=str(tmp_path))  # fmt: skip
    paths = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert [row["url"] for row in rows] == [paths[0], [paths[1], paths[0]]]
    assert (tmp_path / "b.txt").read_text() == "body of /b.txt"
    assert sorted(site.asked) == ["/a.txt", "/b.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".names", "a.txt", "b.txt"]


def test_bytes_go_to_a_field_by_default_that_of_pictures(site):
    (row,), _ = fetched([[f"{site.url}/a", f"{site.url}/b"]])
    assert row["image_bytes"] == [b"body of /a", b"body of /b"]
    (row,), _ = fetched([f"{site.url}/a"], save_field="raw.data")
    assert row["raw"] == {"data": b"body of /a"}


def test_one_name_of_two_addresses_is_two_files_and_the_same_ones_again(site, tmp_path):
    urls = [f"{site.url}/1/pic.jpg", f"{site.url}/2/pic.jpg"]
    rows, _ = fetched(urls, save_dir=str(tmp_path))
    contents = [Path(row["url"]).read_text() for row in rows]
    assert contents == ["body of /1/pic.jpg", "body of /2/pic.jpg"]
    assert os.path.basename(rows[0]["url"]) == "pic.jpg"
    again, _ = fetched(urls[::-1], save_dir=str(tmp_path))
    assert [row["url"] for row in again[::-1]] == [row["url"] for row in rows]
    theirs, _ = fetched(urls, save_dir=str(tmp_path / "dj"), compat="data_juicer")
    assert len({row["url"] for row in theirs}) == 1


def test_resuming_takes_what_is_there(site, tmp_path):
    (tmp_path / "a").write_text("old")
    (row,), _ = fetched([f"{site.url}/a"], save_dir=str(tmp_path), save_field="data",
                        resume_download=True)  # fmt: skip
    assert row["data"] == b"old"
    row = {"url": [f"{site.url}/b", f"{site.url}/c"], "data": [b"old", None]}
    (row,), _ = fetched([row], save_field="data", resume_download=True)
    assert row["data"] == [b"old", b"body of /c"]
    assert site.asked == ["/c"]
    rows, drops = fetched([{"url": f"{site.url}/b", "data": b"old"}], save_field="data")
    assert not rows
    assert drops[0].reason == "field to fill is not empty"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/gone", "HTTP 404"),
        ("/cut", "cut off"),
        ("/endless", "more than 5000 bytes"),
        ("/to/ftp://127.0.0.1/x", "unknown url type: ftp"),
        ("/to/file:///etc/hostname", "HTTP 302"),
    ],
)
def test_a_file_that_cannot_be_had_costs_its_row_and_leaves_nothing(site, tmp_path, path, reason):
    rows, drops = fetched([[f"{site.url}/a", site.url + path], f"{site.url}/a"], max_bytes=5000,
                          save_dir=str(tmp_path))  # fmt: skip
    assert len(rows) == 1
    assert (drops[0].reason, drops[0].value) == (f"download failed: {reason}", site.url + path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".names", "a"]


def test_compat_keeps_the_address_and_null_as_data_juicer_does(site, tmp_path):
    value = [f"{site.url}/a", f"{site.url}/gone"]
    (row,), _ = fetched([value], save_dir=str(tmp_path), save_field="data", compat="data_juicer")
    assert row["url"] == [str(tmp_path / "a"), f"{site.url}/gone"]
    assert row["data"] == [b"body of /a", None]


@pytest.mark.parametrize("value", [None, "", [], 7])
def test_rows_without_an_address_stay_or_say_so(value):
    rows, drops = fetched([value])
    assert rows == [{"text": "", "url": value}] if value != 7 else not rows
    assert [drop.reason for drop in drops] == ["download failed: not an address"] * (value == 7)


def test_local_paths_pass_and_are_read_only_where_allowed(tmp_path):
    (tmp_path / "here").write_text("local")
    path = str(tmp_path / "here")
    assert fetched([path], save_dir=str(tmp_path), allow_private=False)[0][0]["url"] == path
    rows, drops = fetched([path], allow_private=False)
    assert not rows
    assert drops[0].reason.startswith("download failed: a local file")
    assert fetched([path])[0][0]["image_bytes"] == b"local"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///etc/hostname", "not http or https"),
        ("ftp://example.org/a", "not http or https"),
        ("s3://bucket/key", "not http or https"),
        ("http://user:word@example.org/", "address holds a user name"),
        ("http://[::1", "not an address"),
        ("http://a..b/", "not an address"),
    ],
)
def test_other_addresses_are_refused(address, reason):
    assert fetched([address])[1][0].reason == f"download failed: {reason}"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"]
)
def test_this_machine_is_refused_by_whatever_name(site, host):
    rows, drops = fetched([f"http://{host}:{site.server_port}/a"], allow_private=False)
    assert not rows
    assert drops[0].reason.startswith("download failed: a private address")
    assert site.asked == []


def test_a_redirection_to_a_private_address_is_refused(site, monkeypatch):
    real = web._maker
    first = f"http://public.test:{site.server_port}/to/{site.url}/secret"

    def maker(kind, request, allow_private):
        """The first host stands for a public one."""
        return real(kind, request, allow_private or "public.test" in request.full_url)

    def lookup(host, port, *args, **kwargs):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(web, "_maker", maker)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    rows, drops = fetched([first], allow_private=False)
    assert not rows
    assert drops[0].reason.startswith("download failed: a private address")
    assert site.asked == [f"/to/{site.url}/secret"]


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("10.0.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False),
        ("fe80::1%eth0", False), ("fd00::1", False),
        ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:a00:1::", False),
    ],
)  # fmt: skip
def test_addresses_are_told_apart(address, is_public):
    assert web.is_public(address) is is_public


@pytest.mark.parametrize(
    ("host", "is_refused"),
    [
        ("localhost", True),
        ("a.internal", True),
        ("10.1.2.3", True),
        ("0x7f.1", True),
        ("a.org", False),
    ],
)
def test_behind_a_proxy_names_are_judged(host, is_refused):
    request = Request(f"http://{host}/")
    request.set_proxy("proxy.test:3128", "http")
    with pytest.raises(FetchError) if is_refused else contextlib.nullcontext():
        web._maker(object, request, allow_private=False)


def test_addresses_are_encoded_for_sending():
    assert web.quoted(" HTTP://bücher.example/ä b?q=é&r=%20#x ") == (
        "http://xn--bcher-kva.example/%C3%A4%20b?q=%C3%A9&r=%20"
    )


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://a/b/c.jpg?x=/y", "c.jpg"), ("http://a/", "file"), ("http://a/..", "file"),
        ("http://a/%2e%2e", "file"), ("http://a/.hidden", "hidden"), ("http://a/a\\b\0c", "a_b_c"),
        ("http://a/" + "é" * 300 + ".jpeg", "é" * 75 + ".jpeg"), ("s3://b/k/图 1.png", "图 1.png"),
        ("http://a/\ud800.jpg", "?.jpg"), ("http://[::1/x", "x"),
    ],
)  # fmt: skip
def test_names_of_files_lead_nowhere_else(address, name):
    assert file_name(address) == name


def test_a_name_is_given_once_whoever_asks_first(tmp_path):
    (tmp_path / ".names").mkdir()
    names = [claimed_name(str(tmp_path), "a.b.c", address) for address in ("x", "y", "x", "y")]
    assert names[0] == names[2] == "a.b.c"
    assert names[1] == names[3] != "a.b.c"
    assert re.fullmatch(r"a\.b-[0-9a-f]{16}\.c", names[1])


def test_a_folder_that_cannot_be_written_ends_the_run(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        fetched([f"{site.url}/a"], save_dir=str(tmp_path / "file" / "in"))


@pytest.mark.parametrize(
    ("params", "said"),
    [({}, "needs download_field"), ({"download_field": "u", "timeout": 0}, "timeout is 0")],
)
def test_wrong_parameters_are_refused(params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{NAME: params}])
