"""The quickstart, killed once in every stage, ends with the same scores and the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

UNLIKE = {"timing.json", "done.json", "report.html", "funnel.json"}
"""Files that hold times."""


def start(runs: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "vlforge", "quickstart", "--size", "tiny"]
    return subprocess.Popen(
        [*command, "--out", str(runs / "quickstart")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )


def run_to_the_end(runs: Path) -> None:
    process = start(runs)
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors[-2000:]


def run_until_a_new_stage_begins(runs: Path, seen: set[str]) -> bool:
    """Kill the run when a stage not in `seen` starts; False when it came to its end."""
    process = start(runs)
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith("…"):
            stage = line.split()[1]
            if stage not in seen:
                seen.add(stage)
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
    process.wait()
    assert process.returncode == 0
    return False


def artefacts(runs: Path) -> dict[str, str]:
    """Node and file -> digest, times apart."""
    found = {}
    graph = json.loads((runs / "quickstart" / "graph.json").read_text())
    for row in graph["nodes"]:
        done = json.loads((runs / "quickstart" / row["folder"] / "done.json").read_text())
        for name, digest in done["outputs"].items():
            if Path(name).name not in UNLIKE:
                found[f"{row['node']}/{name}"] = digest
    return found


@pytest.mark.slow
def test_killed_in_each_stage_it_ends_with_the_same_scores_and_bytes(tmp_path):
    runs = tmp_path / "runs"
    run_to_the_end(runs)
    graph = json.loads((runs / "quickstart" / "graph.json").read_text())
    scores, whole = (runs / "quickstart" / "scores.json").read_text(), artefacts(runs)
    seen: set[str] = set()
    for _ in range(5):
        shutil.rmtree(runs)
        while run_until_a_new_stage_begins(runs, seen):
            pass
        if seen == {row["node"] for row in graph["nodes"]}:
            break
        # One was over before the kill of the one beside it came: all from the beginning.
    assert seen == {row["node"] for row in graph["nodes"]}
    assert (runs / "quickstart" / "scores.json").read_text() == scores
    again = artefacts(runs)
    unlike = sorted(
        name for name in again.keys() | whole.keys() if again.get(name) != whole.get(name)
    )
    assert not unlike, f"{len(unlike)} files differ from the run that was not killed: {unlike[:20]}"


@pytest.mark.slow
def test_a_second_call_reuses_every_stage(tmp_path):
    run_to_the_end(tmp_path)
    run_to_the_end(tmp_path)
    timing = json.loads((tmp_path / "quickstart" / "timing.json").read_text())
    assert timing["nodes_run"] == 0
    assert timing["nodes_reused"] > 5
