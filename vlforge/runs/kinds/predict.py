"""The `predict` stage: a model's answer to every row of a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.sizes import count_rows
from vlforge.serving.predict.config import PredictConfig

UNKEYED = ("processes",)
"""Settings that change no answer."""
FELL_BACK = "fell_back.jsonl"
_SECONDS_A_ROW = 0.05


def run(config: PredictConfig, job: Job) -> None:
    """Answer into the stage folder; a killed stage goes on with the rows that are left."""
    import torch

    from vlforge.serving.predict.answering import Asking
    from vlforge.serving.predict.rows import Source
    from vlforge.serving.predict.run import Plan, find_model, predict

    torch.set_num_threads(job.threads)
    asking = Asking(
        str(find_model(Path(config.model))),
        template=config.template,
        loading=config.loading,
        drawing=config.drawing,
        seed=job.seed if config.seed == "auto" else config.seed,
        batch=config.batch,
        keeps_damaged=config.damaged == "answer",
    )
    plan = Plan(
        Source(Path(config.input), config.format, config.images, config.prompt),
        job.out / config.output,
        asking,
        fallback=None if config.fallback == "auto" else config.fallback,
        report=job.out / FELL_BACK,
        processes=config.processes,
        device=job.device,
        overwrite=True,
    )
    done = predict(plan, job.progress)
    for note in done.notes:
        job.log({"event": "note", "text": note})
    summary = done.summary
    job.log({"event": "predicted", "rows": summary.rows, "damaged": summary.damaged,
             "fell_back": dict(summary.fell_back)})  # fmt: skip


def estimate(config: PredictConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Rows times one answer of a small model."""
    rows = count_rows(config.input, inputs)
    return Cost(
        gpu="yes",
        cpu_s=5.0 + rows * _SECONDS_A_ROW,
        disk_mb=rows * 1e-3,
        memory_mb=700.0,
        note=f"about {rows:,} rows",
    )
