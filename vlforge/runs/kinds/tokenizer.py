"""The `tokenizer` stage."""

from __future__ import annotations

from collections.abc import Mapping

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.training.config import TokenizerConfig


def run(config: TokenizerConfig, job: Job) -> None:
    """Train the tokenizer into the stage folder."""
    from vlforge.training.tokenizer import train_tokenizer

    train_tokenizer(config, job.out, log=job.log)


def estimate(config: TokenizerConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """A few seconds, whatever the data."""
    return Cost(cpu_s=4.0, memory_mb=300.0, note=f"{len(config.data)} files")
