"""The `process` stage: operators over a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.types import RecipeError

UNKEYED = ("np", "model_workers", "replies", "executor_type", "ray_address")
"""Settings that change where and how fast the work is done, and not what comes out."""
REPLIES = ".replies.jsonl"
"""What endpoints answered, beside all stages: a changed recipe pays for new questions only."""


def run(config: ProcessConfig, job: Job) -> None:
    """Process into the stage folder."""
    from vlforge.engine.local import run_process
    from vlforge.inference.local import LocalModels

    _refuse_exports(config)
    funnel = run_process(
        replace(config, export_path=""),
        job.out,
        models=LocalModels(
            device=_device(config, job),
            threads=job.threads,
            loading=config.models,
            seed=config.seed,
            endpoints=config.endpoints,
            replies=config.replies or str(job.out.parent / REPLIES),
        ),
        seed=config.seed,
        workers=config.np or job.threads,
        progress=job.progress,
        log=job.log,
    )
    if config.open_tracer is True:
        from vlforge.engine.tracing import write_traces

        write_traces(job.out, funnel, config)
    make_relative(job.out / "data.jsonl", job.out.parent)


def _device(config: ProcessConfig, job: Job) -> str:
    """The device that models may use: all GPUs, but for stages that run side by side.

    On a cluster its machines say what they have; this one may have no GPU.
    """
    if config.executor_type != "default":
        return "auto"
    shares = job.device == "cuda" and job.processes == 1 and config.models.device_map == "none"
    return "cuda:0" if shares else job.device


def _refuse_exports(config: ProcessConfig) -> None:
    """Refuse what is about an export: a stage leaves `data.jsonl` for the stages after it."""
    plain = ProcessConfig()
    for key in ("export_type", "export_shard_size", "export_extra_args", "keep_hashes_in_res_ds"):
        value = getattr(config, key)
        if value not in (getattr(plain, key), "jsonl"):
            raise RecipeError(
                f"{key} is {value!r}: a stage leaves data.jsonl; "
                "export by a recipe of its own: vlforge process"
            )


def make_relative(data: Path, store: Path) -> None:
    """Name pictures of this and other stages relative to `data`, so that a moved run finds them.

    Pictures from outside the store keep their absolute paths.
    """
    own, before = f'"{data.parent}/'.encode(), f'"{store}/'.encode()
    temporary = data.with_suffix(".tmp")
    with data.open("rb") as lines, temporary.open("wb") as out:
        for line in lines:
            out.write(line.replace(own, b'"').replace(before, b'"../'))
    os.replace(temporary, data)


def estimate(config: ProcessConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Rows times what each operator takes; what models are asked for, and what that costs."""
    from vlforge.runs.kinds.process_cost import cost_of_rows

    return cost_of_rows(config, inputs)


def keyed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape the result: of endpoints, who is asked and where."""
    told = dict(settings)
    if isinstance(told.get("endpoints"), Mapping):
        told["endpoints"] = {
            name: {key: spec[key] for key in ("model", "url") if key in spec}
            for name, spec in told["endpoints"].items()
        }
    return told


def extra_sources(settings: Mapping[str, Any]) -> Iterable[str]:
    """The modules of the operators that the settings name, and the user's own files."""
    from vlforge import ops
    from vlforge.ops.index import want_custom

    custom = settings.get("custom_operator_paths") or ()
    want_custom(custom)
    for path in map(Path, custom):
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        yield from (str(file.absolute()) for file in files)
    for entry in settings.get("process") or ():
        for name in [entry] if isinstance(entry, str) else entry:
            yield ops.find(name).__module__
