"""A small stage in one process or several, as a launcher starts them, and its losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.tiny_model import write_data, write_parts
from vlforge.runs.launch import free_port

STAGE = """
import json, sys
from pathlib import Path
from vlforge.models.config import ModelSpec
from vlforge.recipe.typed import build
from vlforge.training.config import TrainConfig
from vlforge.training.loop import train
from vlforge.types import StageStopped
made, out, how = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
until = how.pop("until", None)
settings = {
    "model": {"vision": str(made / "vision"), "language": str(made / "language")},
    "data": str(made / "data.json"), "samples": 43, "batch": 5, "micro_batch": 2,
    "template": "vicuna", "train": ["vision", "connector", "language"],
    "optimiser": {"lr": 1e-3},
}
steps = iter(range(until)) if until else None
def stop():
    return steps is not None and next(steps, None) is None
try:
    train(build(TrainConfig, settings | how, lambda *keys: "stage"), out, device="cpu", stop=stop)
except StageStopped:
    pass
"""


def write_mixed(made: Path) -> None:
    """Data of which every other row has no picture, and a model for them."""
    data = write_data(made)
    rows = json.loads(data.read_text())
    for row in rows[::2]:
        del row["image"]
        row["conversations"][0]["value"] = "What colour is it?"
    data.write_text(json.dumps(rows))
    write_parts(made, data)


def run_stage(made: Path, out: Path, world: int, timeout_s: float = 1800, **how) -> list[float]:
    """The losses of a stage in `world` processes, which all have to end well, and in time.

    Args:
        how: settings of the stage; `until` stops it after so many steps.
    """
    port = free_port()
    command = [sys.executable, "-c", STAGE, str(made), str(out), json.dumps(how)]
    stages = []
    for rank in range(world):
        told = {"OMP_NUM_THREADS": "1"}
        if world > 1:
            told |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        stages.append(subprocess.Popen(command, env=os.environ | told))
    try:
        until = time.monotonic() + timeout_s
        codes = [stage.wait(timeout=max(1, until - time.monotonic())) for stage in stages]
    finally:
        for stage in stages:
            stage.kill()
    assert codes == [0] * world
    return losses_of(out)


def losses_of(out: Path) -> list[float]:
    """The loss of each step."""
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


__all__ = ["free_port", "losses_of", "run_stage", "write_mixed"]
