"""An adapter alone learns in two processes what it learns in one, dropout left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.side_by_side import free_port
from tests.tiny_model import write_data, write_parts

STAGE = """
import sys
from pathlib import Path
from vlforge.models.config import ModelSpec
from vlforge.training.config import LoraSpec, Optimiser, TrainConfig
from vlforge.training.loop import train
made, out = Path(sys.argv[1]), Path(sys.argv[2])
config = TrainConfig(
    model=ModelSpec(vision=str(made / "vision"), language=str(made / "language")),
    data=str(made / "data.json"), samples=24, batch=4, template="vicuna", train=(),
    optimiser=Optimiser(lr=1e-2), lora=LoraSpec(rank=4, alpha=8, dropout=0.0),
)
train(config, out, device="cpu")
"""


def run(made: Path, out: Path, world: int) -> dict[str, torch.Tensor]:
    """The adapter that so many processes make together."""
    port, stages = str(free_port()), []
    for rank in range(world):
        spread = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        spread |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STAGE, str(made), str(out)]
        stages.append(subprocess.Popen(command, env=os.environ | (spread if world > 1 else {})))
    assert [stage.wait(timeout=1800) for stage in stages] == [0] * world
    learned = json.loads((out / "summary.json").read_text())["trainable"]
    state = load_file(out / "adapter" / "adapter_model.safetensors")
    assert learned == sum(tensor.numel() for tensor in state.values())
    return state


@pytest.mark.slow
def test_two_processes_make_the_adapter_that_one_makes(tmp_path):
    made = tmp_path / "made"
    write_parts(made, write_data(made))
    alone, together = (run(made, tmp_path / str(world), world) for world in (1, 2))
    assert set(alone) == set(together)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=2e-3, rtol=0)
