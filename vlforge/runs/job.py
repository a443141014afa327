"""What a stage kind is given to run with, and what it says of its cost beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.training.stopping import never
from vlforge.types import LogFn, ProgressFn, no_log, no_progress


@dataclass(frozen=True)
class Job:
    """One node's surroundings.

    `out` outlives a kill until the stage is done, so a kind may keep
    checkpoints there; whatever lies in it at the end is the stage's output.
    A kind that has logged `{"event": "fit"}` asks `stop` now and then whether to
    end early, and then raises `StageStopped`.
    """

    node: str
    out: Path
    run_dir: Path
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    processes: int = 1
    progress: ProgressFn = no_progress
    log: LogFn = no_log
    stop: Callable[[], bool] = never


@dataclass(frozen=True)
class Upstream:
    """What is known of an input before it runs: its kind and its settings."""

    kind: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Upstream] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class Cost:
    """What a stage will take. `flops` and `cpu_s` are for the whole stage.

    `gpu` says whether an accelerator shortens it ("yes"), is of no use ("no"),
    or is all but needed ("needed"). `advice` are lines for whoever plans.
    """

    gpu: str = "no"
    flops: float = 0.0
    cpu_s: float = 1.0
    disk_mb: float = 1.0
    memory_mb: float = 100.0
    note: str = ""
    advice: tuple[str, ...] = ()
