"""A recipe of one small training stage, run by the command line in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.tiny_model import write_data, write_parts

COMPARED = ("model.safetensors", "metrics.jsonl", "summary.json", "config.json", "vlforge.json")
STEPS = 240


def write_recipe(folder: Path, **changes: object) -> Path:
    """All of a tiny model learns for `STEPS` steps; a checkpoint every five."""
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    stage = {
        "kind": "train",
        "model": {"vision": str(vision), "language": str(language)},
        "data": str(data),
        "template": "vicuna",
        "train": ["vision", "connector", "language"],
        "augment": True,
        "steps": STEPS,
        "batch": 4,
        "lr": 1e-3,
        "save_every_samples": 20,
    }
    recipe = {"name": "tiny", "device": "cpu", "threads": 1, "stages": {"align": stage | changes}}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def start(recipe: Path, runs: Path, *words: str) -> Started:
    """`vlforge run` in a session of its own, as a terminal starts it."""
    command = [sys.executable, "-m", "vlforge", "run", str(recipe), *words]
    process = subprocess.Popen(
        [*command, "--out", str(runs / "tiny")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A job in the background of a shell has been told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )
    return Started(process, runs)


class Started:
    """A run, and the lines it has said so far."""

    def __init__(self, process: subprocess.Popen, runs: Path):
        self.process, self.runs = process, runs
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(self.process.stdout)

    @property
    def text(self) -> str:
        """All lines."""
        return "".join(self.said)

    def step(self) -> int:
        """The newest checkpoint's step."""
        return newest_step(self.runs)

    def kill(self, number: int) -> None:
        """Send every process of the run a signal, as a terminal or a scheduler does.

        Nobody is told where it is over already.
        """
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def end(self, timeout_s: float = 1200) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(timeout=timeout_s)
        self._reader.join(120)
        return code


def checkpoints(runs: Path) -> list[Path]:
    """Folders of checkpoints of the stage that has not ended, and drafts of them."""
    return sorted(runs.glob(".store/*.partial/checkpoint/*"))


def newest_step(runs: Path) -> int:
    """The newest checkpoint's step; 0 where there is none."""
    found = [re.fullmatch(r"step-(\d+)", path.name) for path in checkpoints(runs)]
    return max((int(match[1]) for match in found if match), default=0)


def result(runs: Path) -> dict[str, bytes]:
    """What the stage left, byte by byte, times apart."""
    (stage,) = (runs / "tiny").glob("*-align*")
    return {name: (stage / name).read_bytes() for name in COMPARED}


def run_whole(recipe: Path, runs: Path) -> dict[str, bytes]:
    """The result of a run that nobody disturbs."""
    run = start(recipe, runs)
    assert run.end() == 0, run.text
    return result(runs)
