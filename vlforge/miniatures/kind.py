"""The `miniature` stage: a system's folder in small, for the recipes' tiny sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def extra_sources(settings: Mapping[str, Any]) -> list[str]:
    """The system's module, which is found by its name, and the scripts that are copied."""
    from vlforge.miniatures.make import find_system

    module = find_system(str(settings["system"])).module
    kit = Path(__file__).with_name("kit")
    return [module, *sorted(str(path) for path in kit.rglob("*.py"))]


def estimate(config: MiniatureConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Seconds and megabytes."""
    return Cost(cpu_s=4 + 0.005 * config.rows, disk_mb=4 + 0.02 * config.rows, memory_mb=600)
