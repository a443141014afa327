"""`benchmarks/eval.py` at a tiny size: both ways of asking and of scoring agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.eval_parts import mmbench
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.scoring import score_answers

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_prints_both_speeds(tmp_path):
    out = tmp_path / "eval.json"
    command = [sys.executable, "benchmarks/eval.py", "--questions", "9", "--rows", "40"]
    done = subprocess.run(
        [*command, "--repeats", "1", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found == json.loads(done.stdout)
    assert found["asking"]["different_answers"] > 4, "equal answers would show little"
    assert 0 < found["scoring"]["score"] < 1


def test_the_plain_rule_is_the_same_with_and_without_pandas(tmp_path, monkeypatch):
    table, answers = mmbench.write_table(tmp_path / "table", 60)
    shares = []
    for has_pandas in (True, False):
        monkeypatch.setattr(mmbench, "with_pandas", lambda has=has_pandas: has)
        shares.append(mmbench.plain_score(table, answers))
    spec = BenchmarkSpec("mmbench", str(table), protocol="circular/vlmevalkit")
    assert shares == [score_answers(spec, answers)["score"]] * 2
