"""Files travel to and from S3, here a small service of the same tongue on this machine."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.files.s3 import account
from vlforge.types import RecipeError

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION",
        "AWS_DEFAULT_REGION", "AWS_PROFILE")  # fmt: skip


class Bucket(BaseHTTPRequestHandler):
    """GET, HEAD and PUT of objects; `server.objects` holds them by bucket/key."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """An object, or what S3 says of a missing one."""
        content = self.server.objects.get(self._name())
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
        else:
            self._answer(200, content, hashlib.md5(content).hexdigest())

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        """Keep an object, unless it must be new and is not."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match") == "*" and self._name() in self.server.objects:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.server.puts.append(self._name())
        self.server.objects[self._name()] = content
        self._answer(200, b"", hashlib.md5(content).hexdigest())

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, status: int, body: bytes, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def service(monkeypatch, tmp_path):
    """A running service, and an environment that names no account of anybody's."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.objects, server.puts = {}, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.access = {
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "aws_access_key_id": "someone",
        "aws_secret_access_key": "a secret",
    }
    yield server
    server.shutdown()
    server.server_close()


def ran(name, values, **params):
    """Kept values of the field `file`, their bytes, and drop reasons."""
    rows = [{"text": "", "file": value} for value in values]
    items = [Item(str(at), at + 1, row) for at, row in enumerate(rows)]
    out = run_in_memory(bind([{name: params}]), items, Context())
    kept = [item.row for item in out.kept]
    return [row["file"] for row in kept], kept, [drop.reason for _, drop in out.dropped]


def down(service, values, **params):
    """`s3_download_file_mapper` over some addresses."""
    return ran("s3_download_file_mapper", values, download_field="file", **service.access, **params)


def up(service, values, **params):
    """`s3_upload_file_mapper` over some paths."""
    params = {"upload_field": "file", "s3_bucket": "b", **service.access, **params}
    return ran("s3_upload_file_mapper", [str(v) if isinstance(v, Path) else v for v in values],
               **params)  # fmt: skip


def test_objects_go_to_a_folder_or_to_bytes(service, tmp_path):
    service.objects = {"b/k/1.txt": b"one", "b/l/1.txt": b"two"}
    values = ["s3://b/k/1.txt", ["s3://b/l/1.txt"]]
    files, _, _ = down(service, values, save_dir=str(tmp_path / "in"))
    assert Path(files[0]).read_bytes() == b"one"
    assert Path(files[1][0]).read_bytes() == b"two"
    assert Path(files[0]).name == "1.txt"
    _, rows, _ = down(service, values)
    assert [row["image_bytes"] for row in rows] == [b"one", [b"two"]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("s3://b/none", "S3 NoSuchKey"),
        ("s3://b", "not an S3 address"),
        ("http://127.0.0.1/b/a", "not an S3 address"),
        ("s3://b/large", "more than 4 bytes"),
    ],
)
def test_an_object_that_cannot_be_had_costs_its_row(service, value, reason):
    service.objects = {"b/a": b"four", "b/large": b"fifth"}
    files, _, reasons = down(service, [value, "s3://b/a"], save_field="x", max_bytes=4)
    assert files == ["s3://b/a"]
    assert reasons == [f"download failed: {reason}"]


def test_files_are_uploaded_and_their_addresses_put_in(service, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    value = [str(tmp_path / "a.txt"), "s3://other/b"]
    files, _, _ = up(service, [value, value], s3_prefix="p/q")
    assert files == [["s3://b/p/q/a.txt", "s3://other/b"]] * 2
    assert service.objects == {"b/p/q/a.txt": b"one"}
    assert service.puts == ["b/p/q/a.txt"]


def test_what_is_there_already_is_not_sent_again_and_not_taken_for_another(service, tmp_path):
    service.objects = {"b/a.txt": b"one"}
    (tmp_path / "2").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "2" / "a.txt").write_text("two")
    paths = [tmp_path / "a.txt", tmp_path / "2" / "a.txt"]
    files, _, _ = up(service, paths)
    other = f"a-{hashlib.sha256(b'two').hexdigest()[:16]}.txt"
    assert files == ["s3://b/a.txt", f"s3://b/{other}"]
    assert service.objects == {"b/a.txt": b"one", f"b/{other}": b"two"}
    assert up(service, paths)[0] == files
    assert service.puts == [f"b/{other}"]
    assert up(service, paths, compat="data_juicer")[0] == ["s3://b/a.txt"] * 2
    up(service, paths[1:], skip_existing=False)
    assert service.objects["b/a.txt"] == b"two"


def test_local_files_go_only_when_their_row_is_safe(service, tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    a, b, c = (str(tmp_path / name) for name in "abc")
    files, _, reasons = up(service, [[a, b], [b, str(tmp_path / "none")], c], remove_local=True)
    assert files == [["s3://b/a", "s3://b/b"], "s3://b/c"]
    assert reasons == ["upload failed: no such file"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_compat_keeps_a_row_whose_file_is_missing(service, tmp_path):
    path = str(tmp_path / "none")
    assert up(service, [path], compat="data_juicer")[0] == [path]
    assert up(service, [None, ""])[0] == [None, ""]


def test_without_credentials_the_run_ends(service):
    del service.access["aws_access_key_id"], service.access["aws_secret_access_key"]
    with pytest.raises(RecipeError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        down(service, ["s3://b/a"])


def test_the_environment_goes_before_the_recipe_and_is_never_mixed_with_it(monkeypatch):
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    given = ("key", "secret", "token", "here", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other key")
    assert account(*given).key_id == "key"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other secret")
    found = account(*given)
    assert (found.key_id, found.secret, found.token) == ("other key", "other secret", None)


def test_secrets_are_not_shown():
    (bound,) = bind([{"s3_upload_file_mapper": {"upload_field": "f", "s3_bucket": "b",
                                                "aws_secret_access_key": "hidden"}}])  # fmt: skip
    assert "hidden" not in repr(bound.op)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("s3_upload_file_mapper", {"s3_bucket": "b"}, "needs upload_field"),
        ("s3_upload_file_mapper", {"upload_field": "f"}, "needs s3_bucket"),
        ("s3_download_file_mapper", {}, "needs download_field"),
    ],
)
def test_wrong_parameters_are_refused(name, params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{name: params}])
