"""Two processes look, judge and leave out what one would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.side_by_side import free_port
from tests.tiny_model import write_data, write_parts

STAGE = """
import json, math, sys
from pathlib import Path
from vlforge.models.config import ModelSpec
from vlforge.training import fit
from vlforge.training.config import Guard, HeldOut, Optimiser, TrainConfig
from vlforge.training.loop import train

gradients = fit._Loop._gradients

def spoilt(self, rows, start):
    loss = gradients(self, rows, start)
    return loss * {7: 100.0, 8: math.nan}.get(start // self.plan.batch + 1, 1.0)

fit._Loop._gradients = spoilt
made, out = Path(sys.argv[1]), Path(sys.argv[2])
config = TrainConfig(
    model=ModelSpec(vision=str(made / "vision"), language=str(made / "language")),
    data=str(made / "data.json"), samples=50, batch=5, template="vicuna",
    train=("vision", "connector", "language"), optimiser=Optimiser(lr=1e-3), micro_batch=2,
    guard=Guard(spike=3, window=4, on_spike="skip", nan_steps=1), parallel=sys.argv[3],
    evaluate=HeldOut(data=str(made / "data.json"), rows=7, every_samples=20),
)
train(config, out, device="cpu", log=lambda event: print(json.dumps(event)))
"""


def run(made: Path, out: Path, world: int, parallel: str = "auto") -> None:
    """A stage spread over `world` processes."""
    port, stages = str(free_port()), []
    for rank in range(world):
        spread = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        spread |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STAGE, str(made), str(out), parallel]
        log = (out.parent / f"{out.name}-{rank}.log").open("w")
        env = os.environ | (spread if world > 1 else {})
        stages.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
    codes = [stage.wait(timeout=1800) for stage in stages]
    assert codes == [0] * world, (out.parent / f"{out.name}-0.log").read_text()[-3000:]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_see_what_one_sees(tmp_path, parallel):
    made = tmp_path / "made"
    write_parts(made, write_data(made))
    run(made, tmp_path / "alone", 1)
    run(made, tmp_path / "together", 2, parallel)
    alone, together = tmp_path / "alone", tmp_path / "together"
    for file, keys in (("eval.jsonl", ("eval_loss",)), ("metrics.jsonl", ("loss",))):
        ours, theirs = lines(alone / file), lines(together / file)
        assert [x["step"] for x in ours] == [x["step"] for x in theirs]
        assert [x.get("skipped") for x in ours] == [x.get("skipped") for x in theirs]
        for key in keys:
            values = [[x[key] for x in found if x[key] is not None] for found in (ours, theirs)]
            assert values[0] == pytest.approx(values[1], abs=1e-3)
    ours, theirs = lines(alone / "spikes.jsonl"), lines(together / "spikes.jsonl")
    assert [(x["step"], x["kind"], x["action"]) for x in theirs] == [
        (7, "spike", "skip"),
        (8, "nan", "skip"),
    ]
    for one, other in zip(ours, theirs, strict=True):
        assert [row["row"] for row in one["rows"]] == [row["row"] for row in other["rows"]]
        losses = [[row["loss"] for row in x["rows"]] for x in (one, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    said = lines(tmp_path / "together-1.log")
    assert not [event for event in said if event["event"] in ("step", "looked", "peak")]
