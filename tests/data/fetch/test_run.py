"""A whole fetch: each item whole or not at all, the second run has nothing to do."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from tests.fetch_site import COMMIT, Page, running_web
from vlforge.data.fetch import run as module
from vlforge.data.fetch import transfer
from vlforge.data.fetch.manifest import Manifest, read_manifest
from vlforge.data.fetch.receipt import NAME, STATE, Receipts
from vlforge.data.fetch.run import Fetched, check_room, fetch, web_client
from vlforge.data.fetch.survey import Finding, survey
from vlforge.data.fetch.unpack import Short
from vlforge.types import DataError

BODY = random.Random(7).randbytes(200_000)
Usage = namedtuple("Usage", "total used free")


class Seen:
    """Keeps what is shown."""

    def __init__(self):
        self.lines, self.steps = [], []

    def begin(self, item, what):
        """A step."""
        self.steps.append((item, what))

    def at(self, done, total):
        """Progress."""

    def end(self, words):
        """An end."""
        self.lines.append(words)


@pytest.fixture
def web(monkeypatch):
    """A running site with something of every kind."""
    with running_web(monkeypatch) as server:
        server.pages["/a.json"] = Page(BODY, etag='"a"')
        server.pages["/images.zip"] = Page(zip_bytes({"images/1.jpg": b"1", "images/2.jpg": b"22"}))
        server.pages["/seed.tar.gz"] = Page(tar_bytes({"seed/rows.jsonl": b"{}\n"}))
        server.repos["models/o/n"] = {"config.json": Page(b"{}"), "w.bin": Page(BODY)}
        server.repos["datasets/o/d"] = {
            "chunks/0.zip": Page(zip_bytes({"deep/a.jpg": b"a"})),
            "chunks/1.zip": Page(zip_bytes({"deep/b.jpg": b"bb"})),
            "list.json": Page(b"[]"),
        }
        yield server


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """A zip of files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_bytes(files: dict[str, bytes]) -> bytes:
    """A packed tar of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


ALL = """
items:
  - {name: rows, kind: file, to: data/rows.json, from: URL/a.json}
  - {name: images, kind: archive, to: data/images, from: URL/images.zip, expect: [1.jpg]}
  - {name: seed, kind: archive, to: input/seed, from: URL/seed.tar.gz}
  - {name: model, kind: repo, to: models/n, from: "hf:o/n"}
  - {name: chunks, kind: archive, to: data/chunks, flat: true, patterns: ["chunks/*.zip"],
     from: "hf:datasets/o/d"}
  - {name: list, kind: file, to: data/list.json, from: "hf:datasets/o/d/list.json"}
  - {name: again, kind: link, to: more/images, target: data/images}
  - {name: kit, kind: manual, to: kit, do: "ask for it"}
"""
WHOLE = [
    "data/chunks/a.jpg", "data/chunks/b.jpg", "data/images/1.jpg", "data/images/2.jpg",
    "data/list.json", "data/rows.json", "fetched.json", "input/seed/rows.jsonl",
    "models/n/config.json", "models/n/w.bin",
]  # fmt: skip


def made(tmp_path: Path, web, text: str = ALL) -> Manifest:
    """The manifest of a text, its addresses those of the site."""
    (tmp_path / "m.yaml").write_text(text.replace("URL", web.url))
    return read_manifest(str(tmp_path / "m.yaml"))


def looked(manifest: Manifest, folder: Path, **options) -> list[Finding]:
    """The survey of all items."""
    client = web_client(allow_private=True, patience_s=60)
    return survey(manifest, manifest.items, folder, client, **options)


def fetched(manifest: Manifest, folder: Path, show=None, **options) -> Fetched:
    """Survey and fetch."""
    client = web_client(allow_private=True, patience_s=60)
    findings = survey(manifest, manifest.items, folder, client)
    given = {"retries": 1, "backoff_s": 0.0, **options}
    return fetch(manifest, findings, folder, client, show or Seen(), **given)


def files_below(folder: Path) -> list[str]:
    """All files but those of the state."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in paths if p.parts[0] != STATE and p.parts[0] != "more")


def states(findings: list[Finding]) -> dict[str, str]:
    """State by name."""
    return {one.item.name: one.state for one in findings}


def test_every_kind_comes_into_its_place_with_a_receipt(web, tmp_path):
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    before = looked(manifest, folder)
    sizes = {one.item.name: one.size for one in before}
    assert sizes["rows"] == len(BODY)
    assert sizes["model"] == len(BODY) + 2
    assert not folder.exists()
    done = fetched(manifest, folder)
    assert (done.failed, len(done.done)) == ({}, 7)
    assert files_below(folder) == WHOLE
    assert (folder / "more/images/1.jpg").read_bytes() == b"1"
    assert not Path(os.readlink(folder / "more/images")).is_absolute()
    assert not list((folder / STATE / "parts").rglob("*.*"))
    receipts = json.loads((folder / NAME).read_text())
    rows = receipts["m/rows"]
    assert (rows["sha256"], rows["etag"]) == (hashlib.sha256(BODY).hexdigest(), '"a"')
    assert receipts["m/model"]["revision"] == COMMIT
    assert receipts["m/images"]["files"] == 2


def test_the_second_run_asks_nobody_and_does_nothing(web, tmp_path):
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    fetched(manifest, folder)
    web.seen.clear()
    again = looked(manifest, folder)
    assert not any(one.is_open for one in again)
    assert states(again) | {"kit": "whole"} == dict.fromkeys(states(again), "whole")
    assert not web.seen


def test_what_is_lost_comes_again_and_what_was_changed_is_left_alone(web, tmp_path):
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    fetched(manifest, folder)
    (folder / "data/images/2.jpg").unlink()
    (folder / "data/rows.json").write_text("mine now")
    (folder / "models/n/w.bin").unlink()
    found = looked(manifest, folder)
    assert {k: v for k, v in states(found).items() if v not in ("whole", "by hand")} == {
        "rows": "clash", "images": "part", "model": "part",
    }  # fmt: skip
    assert "had 200000: move it away" in found[0].note
    assert sorted(fetched(manifest, folder).done) == ["images", "model"]
    assert files_below(folder) == WHOLE
    assert (folder / "data/rows.json").read_text() == "mine now"


def test_sums_are_computed_again_on_request(web, tmp_path):
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    fetched(manifest, folder)
    (folder / "models/n/w.bin").write_bytes(bytes(len(BODY)))
    assert states(looked(manifest, folder))["model"] == "whole"
    found = {one.item.name: one for one in looked(manifest, folder, with_sums=True)}
    assert found["model"].state == "clash"
    assert hashlib.sha256(BODY).hexdigest() in found["model"].note


def test_a_failed_item_costs_itself_only(web, tmp_path):
    del web.pages["/a.json"], web.repos["models/o/n"]
    show = Seen()
    done = fetched(made(tmp_path, web), tmp_path / "to", show)
    assert sorted(done.failed) == ["model", "rows"]
    assert done.failed["rows"].startswith("HTTP Error 404")
    assert "no such repository" in done.failed["model"]
    assert "rows: HTTP Error 404: Not Found" in show.lines
    assert len(done.done) == 5


SUM = """
items:
  - {name: a, kind: file, to: a.json, sha256: SUM, from: [URL/x.json, URL/a.json]}
"""


def test_a_wrong_sum_never_replaces_what_is_there(web, tmp_path):
    right, wrong = hashlib.sha256(BODY).hexdigest(), hashlib.sha256(b"other").hexdigest()
    web.pages["/x.json"] = Page(b"other")
    manifest, folder = made(tmp_path, web, SUM.replace("SUM", right)), tmp_path / "to"
    assert fetched(manifest, folder).done == ["a"]
    receipt = Receipts(folder).of("m/a")
    assert receipt["source"] == f"{web.url}/a.json"
    assert receipt["checked"] == ["sha256"]
    (folder / "a.json").unlink()
    web.pages["/a.json"] = Page(b"other")
    done = fetched(manifest, folder)
    assert f"sha256 is {wrong}, it has to be {right}" in done.failed["a"]
    assert not (folder / "a.json").exists()


def test_a_file_without_a_receipt_is_adopted_or_left_alone(web, tmp_path):
    manifest = made(tmp_path, web, ALL.split("  - {name: images")[0])
    for folder, data, state in ((tmp_path / "a", BODY, "adopt"), (tmp_path / "b", b"my", "clash")):
        (folder / "data").mkdir(parents=True)
        (folder / "data/rows.json").write_bytes(data)
        found = looked(manifest, folder)
        assert states(found) == {"rows": state}
        web.seen.clear()
        done = fetched(manifest, folder)
        assert done.done == (["rows"] if state == "adopt" else [])
        assert (folder / "data/rows.json").read_bytes() == data
        assert all(asked.range == "bytes=0-0" for asked in web.seen)
    assert Receipts(tmp_path / "a").of("m/rows")["source"] == "was there already"


def test_a_repository_that_is_partly_there_gets_only_the_rest(web, tmp_path):
    manifest = made(tmp_path, web, 'items:\n  - {name: m, kind: repo, to: n, from: "hf:o/n"}\n')
    folder = tmp_path / "to"
    (folder / "n").mkdir(parents=True)
    (folder / "n/w.bin").write_bytes(BODY)
    assert fetched(manifest, folder).done == ["m"]
    assert not any("w.bin" in asked.path for asked in web.seen)
    (folder / "n/config.json").write_bytes(b"mine, and longer")
    (folder / NAME).unlink()
    (found,) = looked(manifest, folder)
    assert found.state == "clash"
    assert "config.json has 16 bytes, hf:o/n has 2: move it away" in found.note


def test_an_archive_merges_into_a_folder_and_leaves_other_files_alone(web, tmp_path):
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    (folder / "data/images").mkdir(parents=True)
    (folder / "data/images/mine.jpg").write_bytes(b"mine")
    fetched(manifest, folder)
    assert "data/images/mine.jpg" in files_below(folder)
    assert "data/images/1.jpg" in files_below(folder)
    assert {one.path for one in Receipts(folder).files("m/images")} == {
        "data/images/1.jpg", "data/images/2.jpg",
    }  # fmt: skip


def test_a_clash_with_an_archive_keeps_the_archive_for_the_next_run(web, tmp_path):
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    (folder / "data/images").mkdir(parents=True)
    (folder / "data/images/2.jpg").write_bytes(b"mine")
    done = fetched(manifest, folder)
    assert "2.jpg is there already and holds something else" in done.failed["images"]
    assert (folder / "data/images/2.jpg").read_bytes() == b"mine"
    assert not list((folder / "data").rglob(".*"))
    (folder / "data/images/2.jpg").unlink()
    web.seen.clear()
    assert "images" in fetched(manifest, folder).done
    assert {a.range for a in web.seen if a.path == "/images.zip"} == {"bytes=0-0"}


def test_a_kill_while_unpacking_or_moving_is_gone_on_from(web, tmp_path, monkeypatch):
    manifest, folder = made(tmp_path, web), tmp_path / "to"

    def killed(hidden, place):
        (place / "images").mkdir(parents=True)
        (hidden / "images" / "1.jpg").rename(place / "1.jpg")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            fetched(manifest, folder)
    (folder / "data/images/images").rmdir()
    (folder / "data/images/.images.unpacking").mkdir()
    (folder / "data/images/.images.unpacking/half").write_text("h")
    assert Receipts(folder).of("m/images") is None
    web.seen.clear()
    assert not fetched(manifest, folder).failed
    assert files_below(folder) == WHOLE
    assert {a.range for a in web.seen if a.path == "/images.zip"} == {"bytes=0-0"}


def test_a_damaged_archive_is_thrown_away_and_said(web, tmp_path):
    page = web.pages["/images.zip"]
    page.body, good = page.body[:60], page.body
    done = fetched(made(tmp_path, web), tmp_path / "to")
    assert "it was thrown away" in done.failed["images"]
    assert not (tmp_path / "to/data/images").exists()
    page.body = good
    assert "images" in fetched(made(tmp_path, web), tmp_path / "to").done


def test_hostile_members_and_missing_ones_are_noted(web, tmp_path):
    web.pages["/images.zip"].body = zip_bytes({"images/a.pkl": b"x", "../up": b"x"})
    done = fetched(made(tmp_path, web), tmp_path / "to")
    notes = "\n".join(done.notes)
    assert "images: 1 members left out, e.g. '../up': a member's name leaves its folder" in notes
    assert "a.pkl can run code when they are loaded" in notes
    assert "images/1.jpg was expected, but is not in the archive" in notes
    assert Receipts(tmp_path / "to").of("m/images")["left_out"][0][0] == "../up"


def test_the_disk_is_looked_at_first(web, tmp_path, monkeypatch):
    found = looked(made(tmp_path, web), tmp_path / "to")
    needed, free = check_room(found, tmp_path / "to" / "deeper")
    assert 2 * len(BODY) < needed < free
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9e9, 9e9, 1000))
    with pytest.raises(Short, match=r"are needed .* 1.0 kB are free: .* are missing"):
        check_room(found, tmp_path)


def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_came(web, tmp_path, monkeypatch):
    write, left = transfer._write, [2]

    def short(file, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(transfer, "_write", short)
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(9e9, 9e9, 5000))
    with pytest.raises(Short, match="are missing"):
        fetched(manifest, folder)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    web.seen.clear()
    done = fetched(manifest, folder)
    assert not done.failed
    assert files_below(folder) == WHOLE
    ranges = [a.range for a in web.seen if a.path == "/a.json"]
    assert ranges[-1].startswith("bytes=")
    assert ranges[-1] != "bytes=0-0"


def test_the_next_hub_is_asked_where_one_has_it_not(web, tmp_path):
    text = 'items:\n  - {name: m, kind: repo, to: n, from: ["hf:o/none", "hf:o/n"]}\n'
    assert fetched(made(tmp_path, web, text), tmp_path / "to").done == ["m"]
    assert Receipts(tmp_path / "to").of("m/m")["source"] == "hf:o/n"


def test_a_target_on_a_linked_disk_is_filled_there(web, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to/data").symlink_to(tmp_path / "big")
    assert not fetched(made(tmp_path, web), tmp_path / "to").failed
    assert (tmp_path / "big/images/1.jpg").is_file()
    assert (tmp_path / "big/rows.json").is_file()


def test_a_link_to_what_is_not_there_is_said(web, tmp_path):
    text = "items:\n  - {name: l, kind: link, to: b, target: a}\n"
    done = fetched(made(tmp_path, web, text), tmp_path / "to")
    assert "a, which it leads to, is not there" in done.failed["l"]


def test_two_runs_do_not_write_to_one_folder(web, tmp_path):
    manifest, folder = made(tmp_path, web), tmp_path / "to"
    (folder / STATE).mkdir(parents=True)
    holds = module.alone(folder / STATE, "lock", "another fetch")
    with holds, pytest.raises(DataError, match="another fetch writes there"):
        fetched(manifest, folder)


def test_damaged_receipts_are_said_with_the_remedy(web, tmp_path):
    (tmp_path / NAME).write_text("{")
    with pytest.raises(DataError, match=r"cannot be read .*: remove it"):
        looked(made(tmp_path, web), tmp_path)
