"""`vlforge fetch` shows first, asks, fetches, goes on after any stop, and then does nothing."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fetch_site import Page, running_web
from tests.signals import hears_ctrl_c
from vlforge.cli.start import main

BODY = random.Random(9).randbytes(4_000_000)
TEXT = """
title: A system
next: vlforge check data/rows.json
items:
  - {name: rows, kind: file, group: data, to: data/rows.json, from: URL/a.json}
  - {name: model, kind: repo, group: models, to: models/n, from: "hf:o/n"}
  - {name: words, kind: manual, group: data, to: data/words.txt, do: "ask its owner"}
  - {name: more, kind: file, group: extra, optional: true, to: more.json, from: URL/a.json}
"""


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A running site, its manifest in the working folder."""
    with running_web(monkeypatch) as server:
        server.pages["/a.json"] = Page(BODY, etag='"a"')
        server.repos["models/o/n"] = {"config.json": Page(b"{}")}
        (tmp_path / "m.yaml").write_text(TEXT.replace("URL", server.url))
        monkeypatch.chdir(tmp_path)
        yield server


def test_without_a_name_the_systems_are_listed(capsys):
    assert main(["fetch"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("better_synth", "xtuner_llava", "mgm", "minigpt4"))


def test_a_list_asks_nobody_and_names_what_is_by_hand(web, capsys):
    assert main(["fetch", "m.yaml", "--list"]) == 0
    said = capsys.readouterr().out
    assert "more (optional)" in said
    assert "words: ask its owner" in said
    assert not web.seen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["beter_synth", "to"], "no manifest 'beter_synth'; did you mean 'better_synth'?"),
        (["mgm"], "where to? e.g. `vlforge fetch mgm data`"),
        (["m.yaml", "m.yaml"], "m.yaml is a file; name a folder"),
        (["m.yaml", "to", "--only", "row"], "no item or group 'row'; did you mean 'rows'?"),
    ],
)
def test_mistakes_are_one_line(web, capsys, words, said):
    assert main(["fetch", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_shows_sizes_and_the_disk_and_writes_nothing(web, tmp_path, capsys):
    assert main(["fetch", "m.yaml", "to", "--dry-run", "--allow-private"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^rows +127\.0\.0\.1 +4\.0 MB +–$", said, re.M)
    assert re.search(r"^words +by hand +missing$", said, re.M)
    assert "To fetch 4.0 MB, into to" in said
    assert "4.0 MB needed" in said
    assert not (tmp_path / "to").exists()


def test_private_addresses_are_refused_with_the_option_that_allows_them(web, capsys):
    assert main(["fetch", "m.yaml", "to", "--only", "rows", "--yes"]) == 2
    assert "rows: a private address: --allow-private would reach it" in capsys.readouterr().err
    assert not web.seen


def test_nobody_to_ask_means_yes_has_to_be_given(web, tmp_path, capsys):
    assert main(["fetch", "m.yaml", "to", "--allow-private"]) == 2
    assert "add --yes to fetch" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_fetching_says_what_came_and_what_is_to_do_by_hand(web, tmp_path, capsys):
    words = ["fetch", "m.yaml", "to", "--yes", "--allow-private"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Fetched 2 items, 4.0 MB" in said
    assert "Receipt to/fetched.json" in said
    assert "By hand words: ask its owner" in said
    assert (tmp_path / "to/data/rows.json").read_bytes() == BODY
    web.seen.clear()
    assert main(words) == 0
    assert "2 of 3 items there: nothing to fetch" in capsys.readouterr().out
    (tmp_path / "to/data/words.txt").write_text("words")
    assert main([*words, "--verify"]) == 0
    said = capsys.readouterr().out
    assert "All 3 items there: nothing to do" in said
    assert "Next    vlforge check data/rows.json" in said
    assert not web.seen


def test_a_failure_is_named_and_gives_an_exit_code(web, capsys):
    del web.pages["/a.json"]
    assert main(["fetch", "m.yaml", "to", "--yes", "--allow-private"]) == 2
    said = capsys.readouterr()
    assert "Fetched 1 item," in said.out
    assert "1 item did not come; the same command tries again" in said.out
    assert "error: rows: HTTP Error 404: Not Found" in said.err


def test_offline_gives_the_path_or_each_place_and_asks_nobody(web, tmp_path, monkeypatch, capsys):
    hub = tmp_path / "hub"
    snapshot = hub / "models--o--n" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert main(["fetch", "m.yaml", "to", "--offline", "--only", "models"]) == 0
    assert f"model: {snapshot}" in capsys.readouterr().out
    assert main(["fetch", "m.yaml", "to", "--offline"]) == 2
    said = capsys.readouterr()
    assert f"  {tmp_path}/torch/hub/checkpoints/a.json" in said.out
    assert "2 of 3 items not on this machine: rows, words" in said.err
    assert not web.seen


def started(folder: Path) -> subprocess.Popen:
    """The command in a process of its own."""
    words = ["fetch", "m.yaml", "to", "--yes", "--allow-private", "--only", "rows"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    return subprocess.Popen(
        [sys.executable, "-m", "vlforge", *words],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=hears_ctrl_c,
    )  # fmt: skip


def until_begun(part: Path) -> int:
    """Wait for some of the file; how much there is."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if part.is_file() and part.stat().st_size > 100_000:
            return part.stat().st_size
        time.sleep(0.05)
    raise AssertionError("nothing came")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stop_in_the_middle_goes_on_to_the_same_bytes(web, tmp_path, how):
    page = web.pages["/a.json"]
    page.slow_s = 1.0  # the whole file takes a minute: a stop comes in its middle, even late
    part = tmp_path / "to/.fetch/parts/m/rows/data"
    process = started(tmp_path)
    until_begun(part)
    process.send_signal(how)
    said = process.communicate(timeout=300)[0]
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "Continue with the same command:" in said
    kept = part.stat().st_size
    assert 0 < kept < len(BODY)
    assert not (tmp_path / "to/data/rows.json").exists()
    page.slow_s = 0.0
    web.seen.clear()
    process = started(tmp_path)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert (tmp_path / "to/data/rows.json").read_bytes() == BODY
    assert f"bytes={kept}-" in [asked.range for asked in web.seen]
