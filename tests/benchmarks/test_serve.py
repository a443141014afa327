"""`benchmarks/serve.py` at a tiny size: both servers say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_prints_both_servers_speeds(tmp_path):
    out = tmp_path / "serve.json"
    command = [sys.executable, "benchmarks/serve.py", "--requests", "9", "--tokens", "4"]
    done = subprocess.run(
        [*command, "--clients", "1", "3", "--repeats", "1", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found == json.loads(done.stdout)
    assert found["different_answers"] > 4, "equal answers would show little"
    assert list(found["clients"]) == ["1", "3"]
    for both in found["clients"].values():
        assert both["batched"]["first_s"] <= both["batched"]["answer_s"]
        assert both["serialised"]["requests_per_s"] > 0
