"""The `report` stage: the run's page and its scores."""

from __future__ import annotations

from collections.abc import Mapping

from vlforge.recipe.schema import ReportConfig
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.store import write_json


def run(config: ReportConfig, job: Job) -> None:
    """Write `report.html` and, where something was scored, `scores.json`."""
    from vlforge.reports.run_report import write_run_report
    from vlforge.reports.scores import summarise

    job.progress(0, None, "report")
    write_run_report(job.run_dir, job.out / "report.html")
    scores = summarise(job.run_dir)
    if scores:
        write_json(job.out / "scores.json", scores)


def estimate(config: ReportConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """A few seconds."""
    return Cost(cpu_s=5.0, disk_mb=2.0, memory_mb=300.0)
