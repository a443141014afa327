"""Workers, kills and full disks: the same bytes come out, or one clear line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.engine.made import config, contents, fresh, lines, text_rows, write_picture, write_rows
from vlforge.engine import outputs
from vlforge.engine.local import run_process
from vlforge.types import DataError

OPS = (
    "clean_links_mapper",
    {"text_length_filter": {"min_len": 12}},
    "document_deduplicator",
    {"word_repetition_filter": {"rep_len": 2}},
    {"topk_specified_field_selector": {"field_key": "score", "top_ratio": 0.7}},
    "whitespace_normalization_mapper",
    {"document_deduplicator": {"ignore_non_character": True}},
)


class Stop(Exception):
    """Raised in the middle of a run, as a kill would end it."""


def stop_after(calls: int):
    """A progress function that raises when it is called for the n-th time."""
    left = [calls]

    def progress(done, total, note):
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    return progress


def test_workers_do_not_change_a_byte_and_text_loads_no_pillow(tmp_path):
    recipe = config(write_rows(tmp_path / "a.jsonl", text_rows(6500)), *OPS)
    for workers in (1, 2):
        command = fresh(recipe, tmp_path / str(workers), workers=workers)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout.split() == ["heavy:"]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("calls", [1, 3, 6, 7, 9])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(outputs, "COMMIT_EVERY_S", 0.0)
    recipe = config(write_rows(tmp_path / "a.jsonl", text_rows(5500)), *OPS)
    run_process(recipe, tmp_path / "whole", workers=1)
    with pytest.raises(Stop):
        run_process(recipe, tmp_path / "cut", workers=1, progress=stop_after(calls))
    events = []
    run_process(recipe, tmp_path / "cut", workers=1, log=events.append)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert [e["event"] for e in events] == (["resumed"] if calls > 1 else [])
    assert not [p for p in (tmp_path / "cut").iterdir() if p.name.startswith(".")]


def test_a_journal_of_other_work_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "COMMIT_EVERY_S", 0.0)
    path = write_rows(tmp_path / "a.jsonl", text_rows(3500))
    with pytest.raises(Stop):
        run_process(config(path, *OPS), tmp_path / "out", progress=stop_after(3))
    events = []
    run_process(config(path, *OPS[:2]), tmp_path / "out", log=events.append)
    run_process(config(path, *OPS[:2]), tmp_path / "again")
    assert events == []
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def not_running(group: int) -> bool:
    """Whether every process of the group has ended within a minute; unreaped ones have."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        states = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                after_name = stat.read_text().rpartition(")")[2].split()
                states += after_name[0] if int(after_name[2]) == group else ""
        if set(states) <= {"Z"}:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.6, 1.5])
def test_a_killed_run_goes_on_to_the_same_bytes_and_leaves_no_worker(tmp_path, wait_s):
    rows = [{**row, "images": [f"{n % 5}.png"]} for n, row in enumerate(text_rows(12_000))]
    for number in range(5):
        write_picture(tmp_path / f"{number}.png", (400, 300), number)
    path = write_rows(tmp_path / "a.jsonl", rows)
    recipe = config(path, *OPS[:4], "image_shape_filter", "image_detail_filter", *OPS[4:])
    run_process(recipe, tmp_path / "whole", workers=1)
    command = fresh(recipe, tmp_path / "cut", workers=2)
    killed = subprocess.Popen(command, start_new_session=True)
    time.sleep(wait_s)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not_running(killed.pid)
    subprocess.run(command, check=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(tmp_path):
    recipe = config(write_rows(tmp_path / "a.jsonl", text_rows(5500)), *OPS)
    command = fresh(recipe, tmp_path / "out", file_bytes=60_000)
    full = subprocess.run(command, capture_output=True, text=True)
    assert full.returncode == 2
    assert full.stdout.count("\n") == 1
    assert "cannot write" in full.stdout
    assert "run again" in full.stdout
    run_process(recipe, tmp_path / "out", workers=1)
    run_process(recipe, tmp_path / "whole", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", text_rows(5))
    with pytest.raises(DataError, match=r"cannot write .*a\.jsonl/out"):
        run_process(config(path, *OPS), path / "out")


@pytest.mark.parametrize(
    ("name", "said"), [("gone.jsonl", "does not exist"), (".", "holds no file")]
)
def test_a_dataset_that_cannot_be_read_is_named(tmp_path, name, said):
    with pytest.raises(DataError, match=said) as raised:
        run_process(config(tmp_path / name, *OPS), tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_a_packed_dataset_that_is_cut_off_is_named(tmp_path):
    import gzip

    plain = write_rows(tmp_path / "a.jsonl", text_rows(5000)).read_bytes()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(plain)[:-2000])
    with pytest.raises(DataError, match="cannot be read beyond line"):
        run_process(config(path, "text_length_filter"), tmp_path / "out")


def test_a_reader_of_the_folder_never_sees_half_a_file(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", text_rows(3500))
    out = tmp_path / "out"
    seen = []

    def progress(done, total, note):
        seen.append([p.name for p in out.iterdir() if not p.name.startswith(".")])

    run_process(config(path, *OPS[:3]), out, workers=1, progress=progress)
    assert seen
    assert all(names == [] for names in seen)
    assert lines(out / "data.jsonl")
