"""The parts of `benchmarks/data.py`: made data, measuring, comparing."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pytest

from benchmarks.data_parts.agreement import agree, compare
from benchmarks.data_parts.captions import row, write_text_rows
from benchmarks.data_parts.measuring import RunFailed, measured
from benchmarks.data_parts.pictures import MEAN_BYTES, make_dataset, picture

HOLDS_80_MB = "import sys, time; held = bytearray(b'x') * (80 << 20); time.sleep({})"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"
BUSY_CHILD = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    "'import time\\nwhile time.process_time() < 0.5: pass'])"
)


def test_pictures_are_the_same_each_time_and_weigh_what_photographs_do():
    made = [picture(number) for number in range(100, 140)]
    assert made[:3] == [picture(number) for number in range(100, 103)]
    assert statistics.mean(map(len, made)) == pytest.approx(MEAN_BYTES, rel=0.2)


def test_a_dataset_is_made_once(tmp_path):
    path = make_dataset(tmp_path, 30)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 30
    assert all((tmp_path / image).is_file() for one in rows for image in one["images"])
    path.write_text("kept", encoding="utf-8")
    assert make_dataset(tmp_path, 30).read_text(encoding="utf-8") == "kept"


def test_text_rows_are_streamed_and_a_shorter_file_is_the_start_of_a_longer(tmp_path):
    for rows in (5, 20):
        write_text_rows(tmp_path / f"{rows}", rows)
    assert (tmp_path / "20").read_text("utf-8").startswith((tmp_path / "5").read_text("utf-8"))


def test_some_captions_repeat_and_some_are_in_chunks():
    texts = [str(row(number, [])["text"]) for number in range(3000)]
    assert 0.85 < len(set(texts)) / len(texts) < 0.99
    assert any(text.count("<|__dj__eoc|>") > 1 for text in texts)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's process table")
def test_memory_and_seconds_of_child_processes_count(tmp_path):
    # Memory is looked at now and then: on a busy machine, what is held longer is seen.
    peaks = (
        measured(
            [sys.executable, "-c", PARENT.format(HOLDS_80_MB.format(held_s))], tmp_path / "said"
        ).peak_mb
        for held_s in (0.6, 5, 60)
    )
    assert any(peak > 80 for peak in peaks)
    assert measured([sys.executable, "-c", BUSY_CHILD], tmp_path / "said").cpu_s > 0.5


def test_a_command_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(RunFailed, match="no such luck"):
        measured([sys.executable, "-c", "raise SystemExit('no such luck')"], tmp_path / "said")


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "same"),
    [({}, True), ({"text": "b"}, False), ({"__dj__stats__": {"n": [0.5 + 1e-10, 2]}}, True),
     ({"__dj__stats__": {"n": [0.5 + 1e-8, 2]}}, False), ({"__dj__stats__": {"n": [0.5]}}, False),
     ({"__dj__stats__": {}}, False), ({"id": "9"}, False)],
)  # fmt: skip
def test_outputs_agree_when_rows_and_statistics_do(tmp_path, change, same):
    one = {"id": "1", "text": "a", "__dj__stats__": {"n": [0.5, 2]}}
    two = {"id": "2", "text": "a", "__dj__stats__": {"n": [0.25, 2]}}
    ours = lines(tmp_path / "ours", [one, two])
    assert agree(compare(ours, lines(tmp_path / "other", [{**one, **change}, two]))) is same
    assert not agree(compare(ours, lines(tmp_path / "turned", [two, one])))
