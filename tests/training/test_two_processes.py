"""Two processes on one global batch learn what one process learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.side_by_side import free_port
from tests.tiny_model import write_data, write_parts

STAGE = """
import json, sys
from pathlib import Path
from vlforge.models.config import ModelSpec
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.loop import train
made, out = Path(sys.argv[1]), Path(sys.argv[2])
spec = ModelSpec(vision=str(made / "vision"), language=str(made / "language"))
config = TrainConfig(
    model=spec, data=str(made / "data.json"), samples=43, batch=5, template="vicuna",
    train=("vision", "connector", "language"), optimiser=Optimiser(lr=1e-3), micro_batch=2,
    **json.loads(sys.argv[3]),
)
train(config, out, device="cpu")
"""


def run(made: Path, out: Path, world: int, **how: str) -> list[float]:
    """The losses of a stage spread over `world` processes."""
    port = str(free_port())
    stages = []
    for rank in range(world):
        spread = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        spread |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STAGE, str(made), str(out), json.dumps(how)]
        stages.append(subprocess.Popen(command, env=os.environ | (spread if world > 1 else {})))
    assert [stage.wait(timeout=1800) for stage in stages] == [0] * world
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    made = tmp_path / "made"
    data = write_data(made)
    rows = json.loads(data.read_text())
    for row in rows[::2]:  # one process meets batches without any picture
        del row["image"]
        row["conversations"][0]["value"] = "What colour is it?"
    data.write_text(json.dumps(rows))
    write_parts(made, data)
    alone = run(made, tmp_path / "alone", 1)
    together = run(made, tmp_path / "together", 2)
    assert len(alone) == 9
    assert together == pytest.approx(alone, abs=1e-4)
    shared = run(made, tmp_path / "shared", 2, group="balanced", pack="isolated")
    assert shared == pytest.approx(alone, abs=1e-4)
