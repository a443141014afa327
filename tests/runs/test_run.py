"""A run reuses what is done, goes on after any end, and never shows a half-made stage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vlforge.runs.prepare import Choice
from vlforge.runs.run import StageFailed, run_recipe
from vlforge.runs.store import read_done
from vlforge.types import VLForgeError

RECIPE = """\
name: small
seeds: [0]
jobs: 2
stages:
  world: {kind: tests.runs.letters_kind, text: w}
  base: {kind: tests.runs.plain_kind, text: b}
  align: {kind: tests.runs.letters_kind, text: a, source: $world/letters.txt, needs: [base]}
arms:
  raw: {}
  other: {stages.align.text: o}
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def run(path: Path, *overrides: str, **choice):
    choice.setdefault("run_dir", path.parent / "runs" / "small")
    return run_recipe(path, Choice(overrides=overrides, **choice), quiet=True)


def ran(path: Path) -> list[str]:
    log = path.parent / "runs" / "small" / "ran.txt"
    return sorted(log.read_text().split()) if log.exists() else []


def letters(result, node: str) -> str:
    return next(result.run_dir.glob(f"*-{node}/letters.txt")).read_text()


def test_a_run_hands_each_stage_the_outputs_it_names(tmp_path):
    result = run(write(tmp_path))
    assert letters(result, "align@raw.s0") == "w0a0"
    assert letters(result, "align@other.s0") == "w0o0"
    assert ran(tmp_path / "recipe.yaml") == ["align@other.s0", "align@raw.s0", "base", "world.s0"]


def test_the_run_folder_says_what_was_done(tmp_path):
    result = run(write(tmp_path))
    assert (result.run_dir / "as_given.yaml").read_text() == RECIPE
    assert "tests.runs.plain_kind" in (result.run_dir / "recipe.yaml").read_text()
    graph = json.loads((result.run_dir / "graph.json").read_text())
    rows = {row["node"]: row for row in graph["nodes"]}
    assert rows["align@raw.s0"]["needs"] == ["world.s0", "base"]
    done = read_done(result.run_dir / rows["world.s0"]["folder"])
    assert set(done["outputs"]) == {"letters.txt"}
    assert json.loads((result.run_dir / "env.json").read_text())["libraries"]["pillow"]
    timing = json.loads((result.run_dir / "timing.json").read_text())
    assert timing["seconds"] > 0
    assert timing["peak_mb"] > 1


def test_a_second_run_does_nothing_again(tmp_path):
    path = write(tmp_path)
    run(path)
    before = ran(path)
    second = run(path)
    assert ran(path) == before
    assert (second.nodes_run, second.nodes_reused) == (0, 4)


def test_a_changed_setting_runs_only_what_it_reaches(tmp_path):
    path = write(tmp_path)
    run(path)
    before = ran(path)
    result = run(path, "stages.align.text=z")
    assert sorted([*before, "align@raw.s0"]) == ran(path)
    assert letters(result, "align@raw.s0") == "w0z0"


def test_another_run_beside_it_shares_equal_stages(tmp_path):
    path = write(tmp_path)
    run(path)
    second = run(path, run_dir=tmp_path / "runs" / "second")
    assert second.nodes_run == 0
    assert not (second.run_dir / "ran.txt").exists()


def test_until_leaves_the_rest_for_later(tmp_path):
    path = write(tmp_path)
    run(path, until="world")
    assert ran(path) == ["world.s0"]
    run(path)
    assert ran(path).count("world.s0") == 1


def test_until_leaves_the_links_of_later_stages(tmp_path):
    path = write(tmp_path)
    result = run(path)
    run(path, until="world")
    assert letters(result, "align@raw.s0") == "w0a0"


def test_a_stage_that_the_recipe_lost_loses_its_link(tmp_path):
    path = write(tmp_path)
    result = run(path)
    path.write_text(RECIPE.replace("  other: {stages.align.text: o}\n", ""))
    run(path)
    assert not list(result.run_dir.glob("*-align@other*"))


def test_a_failed_stage_says_its_line_and_the_rest_is_kept(tmp_path):
    path = write(tmp_path)
    with pytest.raises(
        StageFailed, match=r"stage align@\w+.s0: .*row 7: 'x' is no letter"
    ) as caught:
        run(path, "stages.align.fail=error")
    assert "log.jsonl" in str(caught.value)
    assert ran(path).count("world.s0") == 1
    run(path)
    assert ran(path).count("world.s0") == 1


def test_a_bug_is_told_by_its_type_and_logged_with_its_trace(tmp_path):
    path = write(tmp_path)
    with pytest.raises(StageFailed, match="ZeroDivisionError: letters"):
        run(path, "stages.world.fail=bug")
    log = (tmp_path / "runs" / "small" / "log.jsonl").read_text()
    assert "Traceback" in log


def test_a_worker_that_dies_is_named(tmp_path):
    path = write(tmp_path)
    with pytest.raises(StageFailed, match=r"world.s0: its process died \(killed"):
        run(path, "stages.world.fail=exit")


def test_a_lost_output_is_made_again(tmp_path):
    path = write(tmp_path)
    result = run(path)
    next(result.run_dir.glob("*-world.s0/letters.txt")).unlink()
    again = run(path)
    assert again.nodes_run == 1
    assert letters(again, "world.s0") == "w0"


def test_a_moved_run_folder_goes_on(tmp_path):
    path = write(tmp_path)
    run(path, until="world")
    moved = tmp_path / "elsewhere"
    (tmp_path / "runs").rename(moved)
    result = run(path, run_dir=moved / "small")
    assert (moved / "small" / "ran.txt").read_text().split().count("world.s0") == 1
    assert letters(result, "align@raw.s0") == "w0a0"


def test_a_mapped_path_takes_the_place_of_the_old_one(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "in.txt").write_text("n")
    text = RECIPE.replace("$world/letters.txt", "/old/place/in.txt")
    result = run(write(tmp_path, text), maps={"/old/place": str(tmp_path / "new")})
    assert letters(result, "align@raw.s0") == "na0"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    path = write(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(VLForgeError, match="cannot write the run here"):
        run(path, run_dir=tmp_path / "file" / "run")


def command(path: Path, *overrides: str) -> list[str]:
    code = (
        "import sys; from pathlib import Path\n"
        "from vlforge.runs.prepare import Choice\n"
        "from vlforge.runs.run import run_recipe\n"
        "if __name__ == '__main__':\n"
        "    run_recipe(Path(sys.argv[1]), Choice(overrides=tuple(sys.argv[3:]),"
        " run_dir=Path(sys.argv[2])), quiet=True)\n"
    )
    script = path.parent / "go.py"
    script.write_text(code)
    return [sys.executable, str(script), str(path), str(path.parent / "runs" / "small"), *overrides]


def begun(path: Path, node: str) -> subprocess.Popen:
    """A command that has come to the node's stage, which waits for a file there."""
    process = subprocess.Popen(command(path), env={**os.environ, "PYTHONPATH": os.getcwd()})
    while not any(name.startswith(node) for name in ran(path)):
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, ending):
    whole, cut, go = (tmp_path / name for name in ("whole", "cut", "go"))
    for folder in (whole, cut):
        folder.mkdir()
    text = RECIPE.replace("text: a,", f"text: a, until: {go},")
    process = begun(write(cut, text), "align")
    process.send_signal(ending)
    assert process.wait() != 0
    go.touch()
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for path in (write(whole, text), cut / "recipe.yaml"):
        subprocess.run(command(path), check=True, env=environment)
    files = sorted((whole / "runs" / "small").glob("*-*/letters.txt"))
    assert len(files) == 4
    for file in files:
        twin = cut / "runs" / "small" / file.relative_to(whole / "runs" / "small")
        assert twin.read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_workers_die_with_their_parent(tmp_path):
    path = write(tmp_path, RECIPE.replace("text: w}", f"text: w, until: {tmp_path / 'never'}}}"))
    process = begun(path, "world")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    assert not psutil.wait_procs(children, timeout=120)[1]
