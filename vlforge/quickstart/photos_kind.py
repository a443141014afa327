"""The `photos` stage: real pictures, their captions and questions, as the stages read them."""

from __future__ import annotations

from collections.abc import Mapping

from vlforge.quickstart.config import PhotosConfig
from vlforge.runs.job import Cost, Job, Upstream


def run(config: PhotosConfig, job: Job) -> None:
    """Write the files into the stage folder; the pictures stay where they are."""
    from vlforge.quickstart.photos import prepare_photos

    counts = prepare_photos(config, job.out, job.seed, job.progress)
    job.log({"event": "photos", **counts})


def estimate(config: PhotosConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Nothing worth counting: no picture is opened."""
    return Cost(cpu_s=0.2, disk_mb=0.1, note=f"pictures of {config.path}")
