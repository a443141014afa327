"""A stage kind that goes in steps, may be asked to stop, and goes on where it was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.types import StageStopped

UNKEYED = ("pace_s",)


@dataclass(frozen=True)
class Config:
    """`text` is written after so many steps."""

    text: str
    steps: int = 3
    pace_s: float = 0.0


def run(config: Config, job: Job) -> None:
    kept = job.out / "checkpoint"
    start = max((int(path.name[5:]) for path in kept.glob("step-*")), default=0)
    job.log({"event": "fit", "from_step": start})
    for step in range(start, config.steps):
        if job.stop():
            (kept / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
            raise StageStopped(f"stopped; the same command goes on after step {step}")
        time.sleep(config.pace_s)
        if step == start:
            job.log({"event": "stepped"})
    shutil.rmtree(kept, ignore_errors=True)
    with (job.run_dir / "ran.txt").open("a") as file:
        file.write(f"{job.node} {start}\n")
    (job.out / "letters.txt").write_text(config.text)


def estimate(config: Config, inputs: Mapping[str, Upstream]) -> Cost:
    return Cost()
