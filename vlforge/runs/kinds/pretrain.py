"""The `pretrain` stage: one part of a model alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlforge.models.part_costs import language_cost, vision_cost
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.flops import small_language_config, small_vision_config
from vlforge.training.config import PretrainConfig

_TOKENS_A_TEXT = 45
TOGETHER = True
"""Several processes run a stage together."""
UNKEYED = frozenset(("save_every_samples",))
"""Settings with which a stage leaves the same files."""


def run(config: PretrainConfig, job: Job) -> None:
    """Train the part into the stage folder."""
    from vlforge.training.pretrain import pretrain

    pretrain(
        config,
        job.out,
        seed=job.seed if config.seed == "auto" else config.seed,
        device=job.device,
        threads=job.threads,
        stop=job.stop,
        progress=job.progress,
        log=job.log,
    )


def extra_sources(settings: Mapping[str, Any]) -> Iterable[str]:
    """The modules that read the stage's datasets, for its key."""
    from vlforge.training.mixture import readers_of

    return readers_of(settings)


def estimate(config: PretrainConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Forward and backward of every sample."""
    if config.objective == "tags":
        forward = vision_cost(small_vision_config(config.vision)).flops
    else:
        language = language_cost(small_language_config(config.language))
        forward = (language.token_flops + language.head_flops) * _TOKENS_A_TEXT
    return Cost(
        gpu="yes",
        flops=3.0 * forward * config.samples,
        cpu_s=5.0,
        disk_mb=5.0,
        memory_mb=700.0,
        note=f"{config.samples:,} samples",
    )
