"""Shards of a download are those that img2dataset 1.47 writes, to the byte of every picture."""

from __future__ import annotations

import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlforge.data.download.config import config_of
from vlforge.data.download.run import download

GOLDEN = {"url_list": "minigpt4_qwenvl/img2dataset/in.tsv"}
PORT = b"127.0.0.1:18765"


class Quiet(SimpleHTTPRequestHandler):
    """The files of a folder."""

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def ours(url_list: Path, tmp_path, monkeypatch):
    """The folder of a download of the reference's list, served on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=url_list.parent / "www")
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    host = f"127.0.0.1:{server.server_port}".encode()
    (tmp_path / "in.tsv").write_bytes(url_list.read_bytes().replace(PORT, host))
    config, _ = config_of(
        {
            "url_list": str(tmp_path / "in.tsv"), "input_format": "tsv", "url_col": "url",
            "caption_col": "caption", "output_format": "webdataset", "image_size": "256",
            "output_folder": str(tmp_path / "out"), "processes_count": "2", "thread_count": "4",
            "number_sample_per_shard": "6", "enable_wandb": "True", "allow_private": "true",
            "timeout": "60", "total_timeout": "600",
        }
    )  # fmt: skip
    download(config)
    server.shutdown()
    server.server_close()
    return tmp_path / "out", host


def members(path: Path, host: bytes = PORT) -> dict[str, bytes]:
    """Name and content of a tar's members, whatever their order."""
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read().replace(host, PORT) for m in tar}


def test_shards_hold_what_img2dataset_writes(url_list: Path, ours):
    folder, host = ours
    theirs = url_list.parent / "out"
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == names
    for name in (name for name in names if name.endswith(".tar")):
        assert members(folder / name, host) == members(theirs / name)


def test_tables_and_stats_say_what_img2dataset_says(url_list: Path, ours):
    folder, host = ours
    theirs = url_list.parent / "out"
    for path in theirs.glob("*.parquet"):
        wanted, found = pq.read_table(path), pq.read_table(folder / path.name)
        assert found.schema.equals(wanted.schema)
        text = json.dumps(found.to_pylist()).replace(host.decode(), PORT.decode())
        rows = sorted(wanted.to_pylist(), key=lambda row: row["key"])
        assert json.loads(text) == rows
    for path in theirs.glob("*_stats.json"):
        wanted, found = (json.loads(p.read_text()) for p in (path, folder / path.name))
        assert list(found) == list(wanted)
        changing = ("duration", "start_time", "end_time")
        assert {k: v for k, v in found.items() if k not in changing} == {
            k: v for k, v in wanted.items() if k not in changing
        }
