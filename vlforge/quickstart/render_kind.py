"""The `render` stage: draws the quickstart's world."""

from __future__ import annotations

from collections.abc import Mapping

from vlforge.quickstart.config import WorldConfig
from vlforge.runs.job import Cost, Job, Upstream

_SECONDS_A_PICTURE = 0.0015


def run(config: WorldConfig, job: Job) -> None:
    """Draw every set into the stage folder."""
    from vlforge.quickstart.world import render_world

    seed = job.seed if config.seed == "auto" else config.seed
    render_world(config, job.out, seed=seed, progress=job.progress)


def estimate(config: WorldConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Pictures times what drawing one takes."""
    pictures = (
        config.seed_rows
        + config.clean_rows
        + config.instruct_rows
        + config.dev_rows
        + config.test_rows
    )
    return Cost(
        cpu_s=1.0 + pictures * _SECONDS_A_PICTURE,
        disk_mb=pictures * 4e-3,
        note=f"{pictures:,} pictures",
    )
