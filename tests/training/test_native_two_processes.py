"""Native models on two processes: mixed batches neither hang nor change what is learned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.test_native import MAKERS
from tests.side_by_side import free_port
from tests.training.test_native_stage import write_data

STAGE = """
import json, sys
from pathlib import Path
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.loop import train
made, out = Path(sys.argv[1]), Path(sys.argv[2])
config = TrainConfig(
    model=str(made / "model"), data=str(made / "data.json"), template="auto", samples=19, batch=4,
    image_root=str(made), train=("vision", "connector", "language"), max_length=1024,
    optimiser=Optimiser(lr=1e-3), micro_batch=1, **json.loads(sys.argv[3]),
)
train(config, out, device="cpu")
"""


def run(made: Path, out: Path, world: int, **how: str) -> list[float]:
    """The losses of a stage spread over `world` processes."""
    port, stages = str(free_port()), []
    for rank in range(world):
        spread = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        spread |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STAGE, str(made), str(out), json.dumps(how)]
        stages.append(subprocess.Popen(command, env=os.environ | (spread if world > 1 else {})))
    assert [stage.wait(timeout=1800) for stage in stages] == [0] * world
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5-vl", "llava-onevision"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_learn_what_one_learns(tmp_path, name, parallel):
    MAKERS[name](tmp_path / "model")
    write_data(tmp_path)
    alone = run(tmp_path, tmp_path / "alone", 1)
    together = run(tmp_path, tmp_path / "together", 2, parallel=parallel)
    assert len(alone) == 5
    assert together == pytest.approx(alone, abs=1e-3)
    files = [sorted(f.name for f in (tmp_path / one).iterdir()) for one in ("alone", "together")]
    assert files[0] == files[1]
