"""A disk that takes nothing more ends a conversion with one line, and nothing half stays."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.pictures_made import picture
from vlforge.data.formats.index import places
from vlforge.data.new_folder import write_error
from vlforge.types import WriteError

SUFFIXES = {"csv": ".csv", "tsv_base64": ".tsv", "parquet": ".parquet", "dj": ".jsonl"}
FOLDERS = {"hf_dataset", "img2dataset", "webdataset", "cc_sbu_align", "folder"}
CONVERT = """
import resource, sys
from pathlib import Path
from vlforge.data.convert import convert
from vlforge.data.formats.index import find
from vlforge.types import VLForgeError
source, target, name, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
try:
    convert(Path(source), Path(target), find("llava"), find(name))
except VLForgeError as error:
    print(type(error).__name__, error)
"""
"""A limit on the size of files is a disk that is full, without a disk."""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "x.jpg").write_bytes(picture(6, size=(300, 200)))
    row = {
        "image": "x.jpg",
        "url": "http://a.example/x.jpg",
    }
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a red bus"}]
    numbers = random.Random(0)
    rows = [
        {"id": n, **row, "note": numbers.randbytes(100).hex(), "conversations": turns}
        for n in range(3000)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


@pytest.mark.parametrize("name", [name for name in places() if name != "folder"])
def test_a_full_disk_ends_a_conversion_and_nothing_half_stays(name, source, tmp_path):
    if name == "cc_sbu_align":
        rows = json.loads(source.read_text())[:40]
        source = source.with_name("few.json")
        source.write_text(json.dumps(rows))
    target = tmp_path / ("made" if name in FOLDERS else "made" + SUFFIXES.get(name, ".json"))
    limit = "3000" if name == "cc_sbu_align" else "150000"
    command = [sys.executable, "-c", CONVERT, str(source), str(target), name, limit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("WriteError cannot write"), (done.stdout, done.stderr)
    assert done.stdout.count("\n") == 1
    assert str(target) in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_with_what_is_needed_and_what_is_free(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    error = write_error(tmp_path / "not" / "there.tar", full, 123456)
    assert isinstance(error, WriteError)
    assert "123,456 bytes more are needed" in str(error)
    assert "are free; free some or name a target on another disk" in str(error)
