"""The `tokenizer` stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.training.config import TokenizerConfig


def run(config: TokenizerConfig, job: Job) -> None:
    """Train the tokenizer into the stage folder."""
    from vlforge.training.tokenizer import train_tokenizer

    train_tokenizer(config, job.out, log=job.log)


def extra_sources(settings: Mapping[str, Any]) -> Iterable[str]:
    """The modules that read the stage's datasets, for its key."""
    from vlforge.training.mixture import readers_of

    return readers_of(settings)


def estimate(config: TokenizerConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """A few seconds, whatever the data."""
    return Cost(cpu_s=4.0, memory_mb=300.0, note=f"{len(config.data)} files")
