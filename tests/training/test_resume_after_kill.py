"""A stage killed from outside, at any moment, ends with the bytes of one left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_model import write_data, write_parts

STAGE = """
import sys
from pathlib import Path
from vlforge.models.config import ModelSpec
from vlforge.training.config import Mixing, Optimiser, TrainConfig
from vlforge.training.loop import train
made, out, data = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
spec = ModelSpec(vision=str(made / "vision"), language=str(made / "language"))
config = TrainConfig(
    model=spec, data=tuple(data), samples=1600, batch=4, template="vicuna",
    mixing=Mixing("per_batch" if len(data) > 1 else "exact"),
    train=("vision", "connector", "language"), augment=True, optimiser=Optimiser(lr=1e-3),
    save_every_samples=40,
)
train(config, out, device="cpu")
"""
COMPARED = ("model.safetensors", "metrics.jsonl", "summary.json", "vlforge.json", "config.json")


@pytest.mark.slow
@pytest.mark.parametrize("datasets", [1, 2], ids=["one", "drawn_mix"])
def test_a_killed_stage_ends_byte_equal(tmp_path, datasets):
    made = tmp_path / "made"
    data = [write_data(made), write_data(made / "more", rows=5)][:datasets]
    write_parts(made, data[0])

    def start(made: Path, out: Path) -> subprocess.Popen:
        words = [sys.executable, "-c", STAGE, str(made), str(out), *map(str, data)]
        return subprocess.Popen(words, start_new_session=True)

    assert start(made, tmp_path / "whole").wait(timeout=1800) == 0
    for _ in range(3):
        stage = start(made, tmp_path / "killed")
        before = set((tmp_path / "killed" / "checkpoint").glob("step-*"))
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and stage.poll() is None:
            steps = set((tmp_path / "killed" / "checkpoint").glob("step-*"))
            if steps and steps != before:
                break
            time.sleep(0.01)
        if stage.poll() is None:
            os.kill(stage.pid, signal.SIGKILL)
        stage.wait(timeout=600)
    assert start(made, tmp_path / "killed").wait(timeout=1800) == 0
    for name in COMPARED:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
