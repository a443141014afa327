"""The `evaluate` stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vlforge.evaluation.config import EvalConfig
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.sizes import count_rows

UNKEYED = ("processes",)
"""Settings that change no answer."""
_SECONDS_A_QUESTION = 0.006


def run(config: EvalConfig, job: Job) -> None:
    """Ask and score into the stage folder."""
    from vlforge.evaluation.run import evaluate

    if config.processes == "auto" and config.endpoint is None:
        config = replace(config, processes=_processes(config, job))
    evaluate(
        config,
        job.out,
        device=job.device,
        threads=job.threads,
        progress=job.progress,
        log=job.log,
    )


def check(config: EvalConfig) -> None:
    """Raise for benchmarks and protocols that nobody knows, before a run begins."""
    from vlforge.evaluation.benchmarks import check_specs

    check_specs(config.benchmarks)


def _processes(config: EvalConfig, job: Job) -> int:
    """As many as may train a stage: one where stages run side by side; never two on a GPU."""
    from vlforge.evaluation.chats import process_count

    if config.device_map != "none":
        return 1
    return (
        min(job.processes, process_count(config, "cuda")) if job.device == "cuda" else job.processes
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
