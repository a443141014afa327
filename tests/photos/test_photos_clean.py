"""`recipes/photos_clean.yaml` over the dirty rows: who stays, and why every other goes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "photos_clean.yaml"
REAL = Path(os.environ.get("VLFORGE_PHOTOS", ROOT.parent / "shared" / "data" / "photos"))

KEPT = [f"{number:09d}" for number in range(16)] + ["000000108"]
DROPPED = {
    "000000100": ("image_deduplicator", "repeats an earlier row"),
    "000000101": ("image_deduplicator", "repeats an earlier row"),
    "000000102": ("word_repetition_filter", "word_rep_ratio too high"),
    "000000103": ("image_deduplicator", "repeats an earlier row"),
    "000000104": ("image_deduplicator", "truncated image"),
    "000000105": ("image_shape_filter", "missing image"),
    "000000106": ("text_length_filter", "text_len too low"),
    "000000107": ("text_length_filter", "text_len too low"),
    "000000109": ("image_deduplicator", "repeats an earlier row"),
}


def vlforge(folder, *arguments):
    """The command line in a process of its own; its output when it has ended well."""
    command = [sys.executable, "-m", "vlforge", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not REAL.is_dir(), reason="the photographs are not on this machine")
def test_real_photographs_are_kept_or_told_why_not(tmp_path):
    said = vlforge(tmp_path, "process", RECIPE, f"dataset_path={REAL / 'seed.jsonl'}")
    kept = [json.loads(line)["id"] for line in (tmp_path / "photos_clean.jsonl").open()]
    assert kept == KEPT
    rows = [json.loads(x) for x in (tmp_path / "photos_clean.process" / "dropped.jsonl").open()]
    assert {row["id"]: (row["op"], row["reason"]) for row in rows} == DROPPED
    vlforge(tmp_path, "report", "photos_clean.process", "--out", "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name, (op, reason) in DROPPED.items():
        assert any(op in x and reason in x and name in x for x in said.splitlines())
        assert name in page
        assert reason in page
        assert reason in vlforge(tmp_path, "why", name, "photos_clean.process")
