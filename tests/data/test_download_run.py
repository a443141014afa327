"""Whole downloads: every list, every fault of the web, every way to be stopped."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.download_site import Site, picture, running_site
from tests.signals import hears_ctrl_c
from vlforge.data.download import run
from vlforge.data.download.config import DownloadConfig
from vlforge.data.download.run import download
from vlforge.data.folder_lock import alone
from vlforge.types import DataError, RecipeError


@pytest.fixture
def site(monkeypatch):
    """A running site."""
    with running_site(monkeypatch) as server:
        yield server


def config(source, folder, **options) -> DownloadConfig:
    """A small download from this machine."""
    given = {"processes_count": 1, "thread_count": 8, "image_size": 32, "allow_private": True,
             "backoff": 0.01, "timeout": 60, "number_sample_per_shard": 4}  # fmt: skip
    return DownloadConfig(url_list=str(source), output_folder=str(folder), **{**given, **options})


def rows_of(folder: Path) -> list[dict]:
    """The rows of all parquet files, in order."""
    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """What the tars and tables of a download hold."""
    found = {}
    for path in sorted(folder.glob("[0-9]*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                found |= {f"{path.name}/{m.name}": tar.extractfile(m).read() for m in tar}
        elif path.suffix == ".parquet":
            found[path.name] = repr(pq.read_table(path).to_pylist()).encode()
        else:
            stats = json.loads(path.read_text())
            found[path.name] = repr([stats["count"], stats["status_dict"]]).encode()
    return found


def write_list(path: Path, urls, captions=None) -> Path:
    """A table of addresses and captions."""
    lines = [
        f"{url}\t{f'words {at}' if captions is None else captions[at]}"
        for at, url in enumerate(urls)
    ]
    path.write_text("\n".join(["url\tcaption", *lines, ""]), encoding="utf-8")
    return path


def test_every_fault_costs_its_row_and_says_why(site, tmp_path):
    paths = {
        "/a.jpg": None,
        "/404": "HTTP Error 404: Not Found",
        "/410": "HTTP Error 410: Gone",
        "/flaky500/1/x": None,
        "/502": "HTTP Error 502: Bad Gateway",
        "/cut": "connection dropped",
        "/reset": "empty answer",
        "/html.jpg": "Image decoding error",
        "/zeros": "more than 100000 bytes",
        "/deeper/1": "more than 10 redirects",
        "/to/file:///etc/hostname": "not http or https",
        "/b.jpg": None,
    }
    source = write_list(tmp_path / "in.tsv", [site.url + path for path in paths])
    found = download(
        config(source, tmp_path / "out", number_sample_per_shard=100, max_bytes=100_000, retries=1)
    )
    rows = rows_of(tmp_path / "out")
    assert [row["error_message"] for row in rows] == list(paths.values())
    assert (found.rows, found.successes) == (12, 3)
    assert (found.failed_to_download, found.failed_to_resize) == (8, 1)
    asked = [site.asked[path] for path in ("/404", "/flaky500/1/x", "/502", "/html.jpg", "/zeros")]
    assert asked == [1, 2, 2, 1, 1]
    stats = json.loads((tmp_path / "out/00000_stats.json").read_text())
    assert stats["status_dict"]["success"] == 3
    assert sum(stats["status_dict"].values()) == stats["count"] == 12


def test_a_server_that_hangs_costs_its_row_in_time(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/hang"])
    found = download(config(source, tmp_path / "out", read_timeout=0.3, retries=1))
    assert dict(found.reasons) == {"timed out": 1}
    assert site.asked["/hang"] == 2


def test_private_addresses_are_refused_unless_allowed(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/a.jpg"])
    found = download(config(source, tmp_path / "out", allow_private=False))
    assert dict(found.reasons) == {"a private address: allow_private would reach it": 1}
    assert not site.asked


def as_file(kind: str, rows: list[dict], path: Path) -> Path:
    """The rows written as the format's users write them."""
    kind, _, packed = kind.partition(".")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if kind == "txt":
        text = "\n".join(row["url"] for row in rows) + "\n\n"
    elif kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        lines = [list(rows[0]), *([str(v) for v in row.values()] for row in rows)]
        text = "\r\n".join(mark.join(f'"{v}"' for v in line) for line in lines)
    else:
        text = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
    (gzip.open if packed else open)(path, "wb").write(text.encode())
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "txt", "csv.gz"])
def test_every_kind_of_list_is_read(site, tmp_path, kind):
    rows = [{"id": n, "url": f"{site.url}/{n}.jpg", "caption": f"line\n{n}"} for n in range(5)]
    source = as_file(kind, rows, tmp_path / f"in.{kind}")
    download(config(source, tmp_path / "out"))
    kept = rows_of(tmp_path / "out")
    assert [row["url"] for row in kept] == [row["url"] for row in rows]
    assert [row["key"] for row in kept] == ["000000", "000001", "000002", "000003", "000010"]
    if kind != "txt":
        assert [row["caption"] for row in kept] == [row["caption"] for row in rows]
        wanted = [str(n) if kind[0] in "ct" else n for n in range(5)]
        assert [row["id"] for row in kept] == wanted
    with tarfile.open(tmp_path / "out/00001.tar") as tar:
        captions = [] if kind == "txt" else ["000010.txt"]
        assert tar.getnames() == ["000010.jpg", "000010.json", *captions]


def test_columns_are_taken_by_name_and_others_kept_as_told(site, tmp_path):
    rows = [{"URL": f"{site.url}/a.jpg", "TEXT": "t", "alt": "other", "width": 7, "score": 0.5}]
    source = as_file("jsonl", rows, tmp_path / "in.jsonl")
    found = download(config(source, tmp_path / "all"))
    (row,) = rows_of(tmp_path / "all")
    assert list(row)[:6] == ["alt", "input_width", "score", "caption", "url", "key"]
    assert (row["input_width"], row["width"], row["caption"]) == (7, 32, "t")
    assert found.notes == ["the list's column width is kept as input_width"]
    download(
        config(source, tmp_path / "some", caption_col="alt", save_additional_columns=("score",))
    )
    (row,) = rows_of(tmp_path / "some")
    assert list(row)[:3] == ["score", "caption", "url"]
    assert row["caption"] == "other"
    download(
        config(source, tmp_path / "none", caption_col="none", save_additional_columns=("none",))
    )
    assert next(iter(rows_of(tmp_path / "none")[0])) == "url"


def test_types_of_a_parquet_list_are_kept(site, tmp_path):
    table = pa.table({"url": [f"{site.url}/a.jpg"], "boxes": [[[1.0, 2.0]]],
                      "small": pa.array([None], pa.int8())})  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    download(config(tmp_path / "in.parquet", tmp_path / "out"))
    found = pq.read_table(tmp_path / "out/00000.parquet")
    assert found.schema.field("boxes").type == pa.list_(pa.list_(pa.float64()))
    assert found.schema.field("small").type == pa.int8()


def test_rows_that_are_none_keep_their_place(site, tmp_path):
    lines = [f'{{"url": "{site.url}/a.jpg"}}', '{"url": ', "[1]", '{"url": null}', '{"url": 5}',
             f'{{"url": "{site.url}/b.jpg"}}']  # fmt: skip
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    download(config(tmp_path / "in.jsonl", tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    assert [row["status"] == "success" for row in rows] == [True] + 4 * [False] + [True]
    assert rows[1]["error_message"].startswith("no row: not JSON")
    assert rows[4]["error_message"] == "no address"
    assert rows[5]["key"] == "000011"


def test_odd_values_travel_as_far_as_they_can(site, tmp_path):
    rows = [
        {"url": f"{site.url}/a.jpg", "caption": "half \ud800 sign", "any": 1, "big": 10**30},
        {"url": "http://\ud800.example/\ud801", "caption": 5, "any": "x", "big": 1},
        {"url": f"{site.url}/b.jpg", "caption": None, "any": {"k": [1]}, "big": 2},
        {"url": f"{site.url}/c.jpg", "caption": "nan", "any": float("nan"), "big": 3},
    ]
    source = as_file("jsonl", rows, tmp_path / "in.jsonl")
    download(config(source, tmp_path / "out"))
    kept = rows_of(tmp_path / "out")
    assert [row["error_message"] for row in kept] == [None, "not an address", None, None]
    assert [row["any"] for row in kept] == ["1", "x", '{"k": [1]}', "null"]
    assert kept[0]["big"] == str(10**30)
    with tarfile.open(tmp_path / "out/00000.tar") as tar:
        told = json.loads(tar.extractfile("000000.json").read())
        assert (told["caption"], told["any"], told["big"]) == ("half \ud800 sign", 1, 10**30)
        assert tar.extractfile("000000.txt").read() == b"half \\ud800 sign"
        assert tar.extractfile("000002.txt").read() == b""


def test_a_list_that_breaks_off_gives_the_rows_before(site, tmp_path):
    whole = gzip.compress(b"url\n" + b"".join(f"{site.url}/{n}.jpg\n".encode() for n in range(5)))
    (tmp_path / "in.csv.gz").write_bytes(whole[:-9])
    download(config(tmp_path / "in.csv.gz", tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    assert sum(row["status"] == "success" for row in rows) >= 1
    assert rows[-1]["error_message"].startswith("no row: line")


def test_a_folder_of_lists_is_read_file_by_file(site, tmp_path):
    (tmp_path / "lists").mkdir()
    for name in "ab":
        write_list(tmp_path / f"lists/{name}.tsv", [f"{site.url}/{name}{n}.jpg" for n in range(5)])
    found = download(config(tmp_path / "lists", tmp_path / "out"))
    assert (found.rows, found.shards) == (10, 4)
    assert [row["key"] for row in rows_of(tmp_path / "out")][4:6] == ["000010", "000020"]


def test_hashes_are_written_and_checked(site, tmp_path):
    right = hashlib.md5(picture()).hexdigest()
    lines = ["url,sum", f"{site.url}/a.jpg,{right}", f"{site.url}/b.jpg,{'0' * 32}"]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    options = {"compute_hash": "md5", "verify_hash": ("sum", "md5")}
    download(config(tmp_path / "in.csv", tmp_path / "out", **options))
    rows = rows_of(tmp_path / "out")
    assert [row["md5"] for row in rows] == [right, None]
    assert [row["error_message"] for row in rows] == [None, "hash mismatch"]
    assert "sum" not in rows[0]


def test_folders_hold_what_tars_hold(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/{n}.jpg" for n in range(5)])
    download(config(source, tmp_path / "tars"))
    download(config(source, tmp_path / "files", output_format="files"))
    with tarfile.open(tmp_path / "tars/00000.tar") as tar:
        for member in tar:
            there = tmp_path / "files/00000" / member.name
            assert there.read_bytes() == tar.extractfile(member).read()


def test_whole_shards_stay_and_missing_ones_are_fetched(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/{n}.jpg" for n in range(10)])
    out = tmp_path / "out"
    first = download(config(source, out))
    whole = contents(out)
    (out / "00001_stats.json").unlink()
    (out / ".1.77.00001.tar.part").write_bytes(b"half")
    site.asked.clear()
    again = download(config(source, out))
    assert (first.shards, again.shards, again.shards_before, again.rows_before) == (3, 1, 2, 6)
    assert sorted(site.asked) == [f"/{n}.jpg" for n in range(4, 8)]
    assert contents(out) == whole
    assert not list(out.glob(".*.part"))


def test_other_settings_never_mix_with_shards_that_are_there(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/{n}.jpg" for n in range(5)])
    out = tmp_path / "out"
    download(config(source, out))
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match="shards of image_size 32, now it is 48: name another"):
        download(config(source, out, image_size=48))
    download(config(source, out, image_size=48, incremental_mode="extend"))
    assert len(list(out.glob("*.tar"))) == 4
    download(config(source, out, image_size=48, incremental_mode="overwrite"))
    assert len(list(out.glob("*.tar"))) == 2
    assert (out / "mine.txt").read_text() == "keep me"
    write_list(source, [f"{site.url}/{n}.jpg" for n in range(9)])
    with pytest.raises(DataError, match="shards of another list"):
        download(config(source, out, image_size=48))


def test_two_downloads_do_not_write_to_one_folder(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/a.jpg"])
    (tmp_path / "out").mkdir()
    holds = alone(tmp_path / "out", run._LOCK, "another download")
    with holds, pytest.raises(DataError, match="another download"):
        download(config(source, tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "text", "options", "words"),
    [
        ("in.csv", None, {}, "does not exist"),
        ("in.csv", "", {}, "no rows"),
        ("in.csv", "url\n", {}, "no rows"),
        ("in.csv", "link\nx\n", {}, "no column of addresses; name it by url_col. Columns: link"),
        (
            "in.csv",
            "url\nx\n",
            {"caption_col": "text"},
            "caption_col is 'text', which is no column",
        ),
        ("in.csv", "url\nx\n", {"save_additional_columns": ("a",)}, "'a', which is no column"),
        ("in.lst", "url\nx\n", {}, "file's name ends in 'lst'"),
        ("in.parquet", "url\nx\n", {}, "cannot be read"),
        ("in.json", "{", {}, "holds no rows"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path, name, text, options, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises((DataError, RecipeError), match=words):
        download(config(tmp_path / name, tmp_path / "out", **options))


def test_progress_says_how_far_how_fast_and_how_well(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/a.jpg", f"{site.url}/404"])
    seen = []
    download(config(source, tmp_path / "out"), lambda *said: seen.append(said))
    assert seen[-1][0] == 2
    assert seen[-1][2].endswith("/s, 50 % fetched")


RUN = """
import sys
from vlforge.data.download.config import config_of
from vlforge.data.download.run import download
if __name__ == "__main__":
    download(config_of(dict(word.split("=", 1) for word in sys.argv[1:]))[0])
"""


class Held(Site):
    """The second half of the pictures comes once the server's gate is open."""

    def answer(self, name, rest, times):
        if int(name.removesuffix(".jpg")) >= 200:
            self.server.gate.wait(600)
        super().answer(name, rest, times)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_download_goes_on_and_ends_as_if_undisturbed(site, tmp_path, how):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/{n}.jpg" for n in range(400)])
    whole = tmp_path / "whole"
    options = {"number_sample_per_shard": 20, "processes_count": 2, "thread_count": 2,
               "timeout": 600, "total_timeout": 600}  # fmt: skip
    download(config(source, whole, **options))
    site.gate, site.RequestHandlerClass = threading.Event(), Held
    (tmp_path / "go.py").write_text(RUN)
    out = tmp_path / "out"
    words = [f"url_list={source}", f"output_folder={out}", "image_size=32", "allow_private=true",
             *(f"{key}={value}" for key, value in options.items())]  # fmt: skip
    command = [sys.executable, str(tmp_path / "go.py"), *words]
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    first = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, preexec_fn=hears_ctrl_c)
    while first.poll() is None and len(list(out.glob("*_stats.json"))) < 3:
        time.sleep(0.01)
    workers = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(how)
    first.wait(60)
    assert not psutil.wait_procs(workers, 60)[1]
    site.gate.set()
    done = {path.name for path in out.glob("*_stats.json")}
    assert 3 <= len(done) < 20
    subprocess.run(command, env=env, check=True)
    assert contents(out) == contents(whole)
    assert not list(out.glob(".*.part"))


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_more_try(site, tmp_path):
    source = write_list(tmp_path / "in.tsv", [f"{site.url}/{n}.jpg" for n in range(8)])
    killed = []

    def kill_first(done, total, note):
        import multiprocessing

        for child in multiprocessing.active_children():
            if not killed:
                killed.append(child.pid)
                os.kill(child.pid, signal.SIGKILL)

    found = download(config(source, tmp_path / "out"), kill_first)
    assert killed
    assert (found.rows, found.successes) == (8, 8)
