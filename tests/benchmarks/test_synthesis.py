"""`benchmarks/synthesis.py` at a tiny size: all ways say and measure the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_all_ways_agree_and_the_server_is_kept_busy(tmp_path):
    out = tmp_path / "synthesis.json"
    command = [sys.executable, "benchmarks/synthesis.py", "--tiny", "--rows", "34"]
    proxies = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    clean = {key: value for key, value in os.environ.items() if key not in proxies}
    done = subprocess.run(
        [*command, "--repeats", "1", "--out", str(out)],
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found == json.loads(done.stdout)
    captioning = found["captioning"]
    assert captioning["different_captions"] > 4, "equal captions would show little"
    assert 3 < captioning["words"]["mean"] < captioning["words"]["most"] < 128
    assert set(captioning["speedup"]) == {"one", "eight"}
    assert set(captioning["three_candidates"]["cpu_speedup"]) == {"eight"}
    assert found["clip_filters"]["filters"] == 4
    endpoint = found["endpoint"]
    assert endpoint["most_at_once"] == endpoint["concurrency"]
    assert 0 < found["endpoint"]["of_ideal"] < 1.1
