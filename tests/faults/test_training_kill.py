"""Training that is killed, stopped or out of disk ends with the bytes of a run left alone."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.training_runs import (
    STEPS,
    Started,
    checkpoints,
    newest_step,
    result,
    run_whole,
    start,
    write_recipe,
)

pytestmark = pytest.mark.slow
SELDOM = "stages.align.save_every_samples=1000000"


def wait_for_step(run: Started, step: int) -> bool:
    """Whether a checkpoint of `step` or later came before the run's end."""
    while run.process.poll() is None:
        if run.step() >= step:
            return True
        time.sleep(0.005)
    return False


def wait_for_steps(run: Started) -> None:
    """Until some steps are done, of which no checkpoint is written yet."""
    while not list(run.runs.glob(".store/*.partial/metrics.jsonl")):
        assert run.process.poll() is None, run.text
        time.sleep(0.005)
    time.sleep(0.3)


def test_killed_at_ten_random_steps_it_ends_with_the_same_bytes(tmp_path):
    recipe = write_recipe(tmp_path / "made")
    whole = run_whole(recipe, tmp_path / "whole")
    drawn, runs = random.Random(0), tmp_path / "killed"
    seen = []
    for _ in range(10):
        run = start(recipe, runs)
        assert wait_for_step(run, newest_step(runs) + drawn.randint(1, 14)), run.text
        time.sleep(drawn.random() / 20)
        run.kill(signal.SIGKILL)
        run.end()
        seen.append(newest_step(runs))
    assert seen == sorted(seen)
    assert len(set(seen)) == 10
    run = start(recipe, runs)
    assert run.end() == 0, run.text
    assert result(runs) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_leaves_a_checkpoint_of_its_last_step(tmp_path, number):
    recipe = write_recipe(tmp_path / "made")
    whole = run_whole(recipe, tmp_path / "whole")
    # Of its own accord it would write the first checkpoint long after the end.
    runs, seldom = tmp_path / "stopped", SELDOM
    run = start(recipe, runs, seldom)
    wait_for_steps(run)
    run.kill(number)
    assert run.end() == 130, run.text
    step = newest_step(runs)
    assert 0 < step < STEPS
    assert f"goes on after step {step} of {STEPS}" in run.text
    assert "Continue with the same command" in run.text
    run = start(recipe, runs, seldom)
    assert run.end() == 0, run.text
    assert result(runs) == whole


def test_a_signal_to_the_command_alone_reaches_the_stage(tmp_path):
    recipe, runs = write_recipe(tmp_path / "made"), tmp_path / "runs"
    run = start(recipe, runs, SELDOM)
    wait_for_steps(run)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end() == 130, run.text
    assert 0 < newest_step(runs) < STEPS
    assert not list(runs.glob(".store/*.partial/checkpoint/draft"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted with the rights to do so")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    return ballast


@pytest.mark.parametrize("is_freed_in_time", [True, False])
def test_a_full_disk_costs_a_checkpoint_and_never_the_one_before(
    tmp_path, small_disk, is_freed_in_time
):
    recipe = write_recipe(tmp_path / "made")
    whole = run_whole(recipe, tmp_path / "whole")
    run = start(recipe, small_disk)
    assert wait_for_step(run, 1), run.text
    ballast = fill(small_disk)
    kept = newest_step(small_disk)
    while "no space for a checkpoint" not in run.text:
        assert run.process.poll() is None, run.text
        time.sleep(0.005)
    if is_freed_in_time:
        ballast.unlink()
        assert run.end() == 0, run.text
    else:
        assert run.end() == 2, run.text
        assert "no space left" in run.text
        assert kept <= newest_step(small_disk) < STEPS
        assert [path.name[:5] for path in checkpoints(small_disk)] == ["step-"]
        ballast.unlink()
        run = start(recipe, small_disk)
        assert run.end() == 0, run.text
    assert result(small_disk) == whole
