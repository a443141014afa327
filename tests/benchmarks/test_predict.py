"""`benchmarks/predict.py` at a tiny size: all ways of captioning write the same file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_prints_the_speeds(tmp_path):
    out = tmp_path / "predict.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/predict.py", "--rows", "7", "--repeats", "1", "--out", out],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found == json.loads(done.stdout)
    assert found["different_captions"] > 4, "equal captions would show little"
    assert min(found["rows_per_s"], found["plain_rows_per_s"], found["alone_rows_per_s"]) > 0
