"""The `miniature` stage: a system's folder in small, for the recipes' tiny sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vlforge.miniatures.config import MiniatureConfig
from vlforge.runs.job import Cost, Job, Upstream


def run(config: MiniatureConfig, job: Job) -> None:
    """Write the folder's content into the stage folder."""
    import shutil

    from vlforge.miniatures.make import make_miniature

    seed = job.seed if config.seed == "auto" else config.seed
    draft = job.out / "part"
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    make_miniature(config.system, draft, replace(config, seed=seed), job.progress)
    for path in sorted(draft.iterdir()):
        path.rename(job.out / path.name)
    draft.rmdir()
    files = [path for path in job.out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    job.log({"event": "miniature", "system": config.system, "files": len(files), "bytes": size})


def estimate(config: MiniatureConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Seconds and megabytes."""
    return Cost(cpu_s=4 + 0.005 * config.rows, disk_mb=4 + 0.02 * config.rows, memory_mb=600)
