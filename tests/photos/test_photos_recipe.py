"""`recipes/photos.yaml` from the command line: made pictures of every mode, then the real ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "photos.yaml"
REAL = Path(os.environ.get("VLFORGE_PHOTOS", ROOT.parent / "shared" / "data" / "photos"))

MODES = {
    "rgb.png": ("RGB", (90, 70)),
    "grey.png": ("L", (300, 200)),
    "bits.png": ("1", (120, 80)),
    "alpha.png": ("RGBA", (128, 96)),
    "grey_alpha.png": ("LA", (100, 100)),
    "palette.gif": ("P", (80, 100)),
    "print.jpg": ("CMYK", (140, 90)),
    "deep.png": ("I;16", (96, 64)),
    "wide.png": ("RGB", (2800, 1000)),
    "large.jpg": ("RGB", (4000, 3000)),
    "photo.webp": ("RGB", (200, 150)),
}
"""File name -> mode and size of a made picture."""


def vlforge(*arguments):
    """The command line in a process of its own; its output when it has ended well."""
    done = subprocess.run(
        [sys.executable, "-m", "vlforge", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def made_photos(folder):
    """Every mode once, a captioned and questioned picture each, and four bad seed rows."""
    (folder / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    entries, rows = [], []
    for number, (name, (mode, size)) in enumerate(MODES.items()):
        coarse = draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(folder / "images" / name)
        kind = name.partition(".")[0].replace("_", " ")
        caption = f"made picture number {number} of the kind that is called {kind}"
        questions = [{"question": "Which number has it?", "answer": str(number)}]
        path = f"images/{name}"
        entries.append({"image": path, "caption_en": caption, "questions": questions})
        rows.append({"id": name, "text": f"<__dj__image> {caption}", "images": [path]})
    (folder / "images" / "cut.jpg").write_bytes((folder / "images/large.jpg").read_bytes()[:5000])
    words = "made picture that nobody will ever see"
    rows += [
        {"id": "cut", "text": f"<__dj__image> a {words}", "images": ["images/cut.jpg"]},
        {"id": "gone", "text": f"<__dj__image> the {words}", "images": ["images/gone.jpg"]},
        {"id": "empty", "text": "<__dj__image> ", "images": ["images/rgb.png"]},
        {**rows[0], "id": "again"},
    ]
    (folder / "photos.json").write_text(json.dumps(entries), encoding="utf-8")
    seed = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "seed.jsonl").write_text(seed, encoding="utf-8")


def stage(run, name):
    """The folder of a stage in a run."""
    (found,) = run.glob(f"[0-9]*-{name}*")
    return found


def test_pictures_of_every_mode_and_size_go_through_the_whole_loop(tmp_path):
    made_photos(tmp_path / "photos")
    run = tmp_path / "run"
    vlforge("run", RECIPE, f"stages.photos.path={tmp_path / 'photos'}", "--size", "tiny",
            "--out", run)  # fmt: skip
    kept = [row["id"] for row in lines(stage(run, "filter") / "data.jsonl")]
    assert kept == list(MODES)
    dropped = {row["id"]: row["op"] for row in lines(stage(run, "filter") / "dropped.jsonl")}
    assert set(dropped) == {"cut", "gone", "empty", "again"}
    assert dropped["again"] == "document_deduplicator"
    for name in ("align", "instruct"):
        summary = json.loads((stage(run, name) / "summary.json").read_text(encoding="utf-8"))
        assert summary["dropped_rows"] == []
    metrics = json.loads((stage(run, "score") / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["textvqa"]["n"] == len(MODES)
    assert (run / "report.html").stat().st_size < 2_000_000


@pytest.mark.skipif(not REAL.is_dir(), reason="the photographs are not on this machine")
def test_real_photographs_are_cleaned_learned_and_answered_about(tmp_path):
    run = tmp_path / "run"
    vlforge("run", RECIPE, f"stages.photos.path={REAL}", "--out", run)
    assert len(lines(stage(run, "filter") / "data.jsonl")) == 16
    assert len(lines(stage(run, "filter") / "dropped.jsonl")) == 10
    metrics = json.loads((stage(run, "score") / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["textvqa"]["score"] > 0.8
    assert metrics["textvqa"]["missing"] == 0
    cat = REAL / "images" / "chelsea.png"
    answer = vlforge("chat", stage(run, "instruct"), "--image", cat, "--question",
                     "Which animal is shown?")  # fmt: skip
    assert answer.splitlines()[0] == "cat"
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "emorised" in report


def test_a_missing_folder_of_photographs_ends_with_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vlforge", "run", RECIPE,
         f"stages.photos.path={tmp_path / 'none'}", "--out", tmp_path / "run"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("error")]
    assert str(tmp_path / "none") in line
    assert "stages.photos.path=DIR" in line
    assert "Traceback" not in done.stderr
