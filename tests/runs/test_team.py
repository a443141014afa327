"""Stages in several processes: who starts them, who writes, and that all end together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.side_by_side import free_port, losses_of, write_mixed

pytestmark = pytest.mark.slow
RECIPE = """
name: r
device: cpu
stages:
  one:
    kind: train
    model: {{vision: {made}/vision, language: {made}/language}}
    data: {made}/data.json
    template: vicuna
    train: [vision, connector, language]
    samples: {samples}
    batch: 4
    save_every_samples: 8
    optimiser: {{lr: 1.0e-3}}
"""
VLFORGE = [sys.executable, "-m", "vlforge"]


def recipe(folder: Path, samples: int = 12) -> Path:
    """A recipe of one small stage."""
    write_mixed(folder / "made")
    path = folder / "r.yaml"
    path.write_text(RECIPE.format(made=folder / "made", samples=samples))
    return path


@pytest.fixture
def start(tmp_path):
    """Starts commands in the test's folder; none of them outlives the test."""
    started = []

    def begin(*words: str, **told: str) -> subprocess.Popen:
        command = subprocess.Popen(
            words,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | told,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(command)
        return command

    yield begin
    for command in started:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)


def spawned(parent: psutil.Process) -> list[psutil.Process]:
    """What a process has spawned, oldest first."""
    found = []
    for child in parent.children():
        with contextlib.suppress(psutil.Error):  # One that ends just now is none of them.
            if "spawn_main" in " ".join(child.cmdline()):
                found.append((child.create_time(), child.pid, child))
    return [child for *_, child in sorted(found, key=lambda one: one[:2])]


def members(command: subprocess.Popen) -> list[psutil.Process]:
    """The processes that train together, by rank."""
    (worker,) = spawned(psutil.Process(command.pid))
    return spawned(worker)


def wait_for_steps(folder: Path, command: subprocess.Popen) -> None:
    """Until a checkpoint of the stage is there."""
    until = time.monotonic() + 1200
    while not list(folder.glob("runs/.store/*.partial/checkpoint/step-*")):
        assert command.poll() is None, command.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_killed_process_ends_all_with_a_line_and_the_command_goes_on(tmp_path, start):
    path = recipe(tmp_path, samples=40_000)
    command = start(*VLFORGE, "train", str(path), "--processes", "2")
    wait_for_steps(tmp_path, command)
    others = psutil.Process(command.pid).children(recursive=True)
    members(command)[1].send_signal(signal.SIGKILL)
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 2
    assert "process 1 of 2 died (killed: out of memory, or by hand)" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(others, timeout=300)[1]


def test_processes_die_with_their_command(tmp_path, start):
    path = recipe(tmp_path, samples=40_000)
    command = start(*VLFORGE, "train", str(path), "--processes", "2")
    wait_for_steps(tmp_path, command)
    children = psutil.Process(command.pid).children(recursive=True)
    assert len(members(command)) == 2
    command.kill()
    assert not psutil.wait_procs(children, timeout=300)[1]


def test_ctrl_c_leaves_a_checkpoint_of_all(tmp_path, start):
    path = recipe(tmp_path, samples=40_000)
    command = start(*VLFORGE, "train", str(path), "--processes", "2",
                    "stages.one.parallel=fsdp2")  # fmt: skip
    wait_for_steps(tmp_path, command)
    command.send_signal(signal.SIGINT)
    said, _ = command.communicate(timeout=600)
    assert command.returncode == 130
    assert "stopped; the same command goes on after step" in said


def test_torchrun_works_as_it_is(tmp_path, start):
    path = recipe(tmp_path)
    alone = start(*VLFORGE, "train", str(path), "--out", "runs/alone/r")
    assert alone.wait(timeout=1800) == 0, alone.communicate()[0]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    torchrun += ["--master_port", str(free_port()), "-m", "vlforge"]
    command = start(*torchrun, "train", str(path), "--out", "runs/both/r")
    said, _ = command.communicate(timeout=1800)
    assert command.returncode == 0, said
    assert said.count("1 stages run, 0 reused") == 1
    found = [losses_of(tmp_path / f"runs/{name}/r/01-one.s0") for name in ("alone", "both")]
    assert found[1] == pytest.approx(found[0], abs=1e-4)


def test_srun_works_as_it_is_and_a_fault_is_told_once(tmp_path, start):
    path = recipe(tmp_path)
    told = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2",
            "MASTER_PORT": str(free_port())}  # fmt: skip
    words = ["train", str(path), "stages.one.on_too_long=refuse", "stages.one.max_length=4"]
    commands = [
        start(*VLFORGE, *words, **told, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
        for rank in range(2)
    ]
    said = [command.communicate(timeout=1800)[0] for command in commands]
    assert [command.returncode for command in commands] == [2, 2]
    assert said[0].count("longer than max_length") == 1
    assert said[1] == ""
