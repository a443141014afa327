"""The `train` stage: a vision-language model under a budget of samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.flops import cost_of
from vlforge.runs.kinds.sizes import count_rows
from vlforge.training.config import TrainConfig

_TEXT_TOKENS = 40.0
_SUPERVISED = 20.0
"""Tokens a sample has when its data does not exist yet."""
_SMALL_MB = 2000.0
"""Weights up to which a CPU is a choice."""


def run(config: TrainConfig, job: Job) -> None:
    """Train the model into the stage folder."""
    from vlforge.training.loop import train

    train(
        config,
        job.out,
        seed=job.seed if config.seed == "auto" else config.seed,
        device=job.device,
        threads=job.threads,
        progress=job.progress,
        log=job.log,
    )


def extra_sources(settings: Mapping[str, Any]) -> Iterable[str]:
    """The modules that read the stage's datasets, for its key."""
    from vlforge.training.mixture import readers_of

    return readers_of(settings)


def estimate(config: TrainConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """FLOPs of every sample; memory of weights, gradients and optimiser states."""
    samples = config.samples or _samples(config, inputs)
    note = f"{samples:,} samples, learns {', '.join(config.train)}"
    cost = cost_of(config.model, inputs)
    if cost is None:
        return Cost(gpu="yes", cpu_s=5.0, memory_mb=700.0, note=f"{note}; model of unknown size")
    weights_mb = cost.parameters * 4 / 1e6
    states_mb = cost.trainable(config.train) * 12 / 1e6
    flops = cost.sample_flops(_TEXT_TOKENS, _SUPERVISED, 1.0, config.train)
    return Cost(
        gpu="needed" if weights_mb > _SMALL_MB else "yes",
        flops=samples * flops,
        cpu_s=5.0,
        disk_mb=weights_mb,
        memory_mb=500.0 + weights_mb + states_mb,
        note=f"{note}, {cost.parameters / 1e6:,.1f} M weights",
    )


def _samples(config: TrainConfig, inputs: Mapping[str, Upstream]) -> int:
    from vlforge.training.mixture import budget, mixtures

    parts = mixtures(config.data)
    sizes = [max(1, count_rows(part.path, inputs)) for part in parts]
    return budget(parts, sizes, None, config.epochs)
