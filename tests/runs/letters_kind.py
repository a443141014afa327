"""A stage kind from outside: writes letters, slowly if told to, and can fail or be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.types import DataError

UNKEYED = ("until",)


@dataclass(frozen=True)
class Config:
    """`text` is written after what `source` holds, not before there is a file `until`; `fail`
    says how to end badly."""

    text: str
    source: str = ""
    pause_s: float = 0.0
    until: str = ""
    fail: Literal["", "error", "bug", "exit"] = ""
    seed: int | Literal["auto"] = "auto"


def run(config: Config, job: Job) -> None:
    before = Path(config.source).read_text() if config.source else ""
    log = job.run_dir / "ran.txt"
    with log.open("a") as file:
        file.write(job.node + "\n")
    while config.until and not Path(config.until).exists():
        time.sleep(0.02)
    for done in range(10):
        time.sleep(config.pause_s / 10)
        job.progress(done + 1, 10, "letters")
    if config.fail == "error":
        raise DataError(f"{config.source or 'input'}: row 7: 'x' is no letter; take it out")
    if config.fail == "bug":
        raise ZeroDivisionError("letters")
    if config.fail == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    (job.out / "letters.txt").write_text(f"{before}{config.text}{job.seed}")


def estimate(config: Config, inputs: Mapping[str, Upstream]) -> Cost:
    return Cost(cpu_s=config.pause_s)
