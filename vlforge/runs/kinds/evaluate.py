"""The `evaluate` stage."""

from __future__ import annotations

from collections.abc import Mapping

from vlforge.evaluation.config import EvalConfig
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.sizes import count_rows

UNKEYED = ("processes",)
"""Settings that change no answer."""
_SECONDS_A_QUESTION = 0.006


def run(config: EvalConfig, job: Job) -> None:
    """Ask and score into the stage folder."""
    from vlforge.evaluation.run import evaluate

    evaluate(
        config,
        job.out,
        device=job.device,
        threads=job.threads,
        progress=job.progress,
        log=job.log,
    )


def estimate(config: EvalConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Questions times one short answer of a small model."""
    questions = sum(count_rows(b.questions, inputs) for b in config.benchmarks)
    return Cost(
        gpu="no" if config.endpoint else "yes",
        cpu_s=5.0 + questions * _SECONDS_A_QUESTION,
        disk_mb=questions * 2e-3,
        memory_mb=700.0,
        note=f"about {questions:,} questions",
    )
