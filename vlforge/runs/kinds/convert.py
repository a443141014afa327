"""The `convert` stage: a model in another layout, such as Paddle's, for the next stage or tool."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.flops import cost_of
from vlforge.training.config import ConvertConfig


def run(config: ConvertConfig, job: Job) -> None:
    """Write the model into the stage folder."""
    import torch

    from vlforge.checkpoints.checkpoint import Parts, Writing
    from vlforge.checkpoints.conversion import check, write
    from vlforge.checkpoints.index import detect, find
    from vlforge.models.reading import write_json

    torch.set_num_threads(job.threads)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    how = Writing(
        dtype=dtypes.get(config.dtype),
        on_shard=lambda done, total: job.progress(done, total, "shards"),
        say=lambda line: job.log({"event": "note", "text": line}),
    )
    source, writer = Path(config.model), find(config.to)
    reader = detect(source)
    checkpoint = reader.read(source, Parts())
    for note in checkpoint.notes:
        job.log({"event": "note", "text": note})
    draft = job.out / "converting"
    shutil.rmtree(draft, ignore_errors=True)
    check(checkpoint, draft, writer, how)
    files = write(checkpoint, draft, writer, how)
    for file in sorted(draft.iterdir()):
        file.rename(job.out / file.name)
    draft.rmdir()
    facts = {"from": reader.name, "layout": writer.name, "tensors": len(checkpoint.weights)}
    write_json(job.out / "convert.json", facts | {"files": sorted(files)})


def estimate(config: ConvertConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Reading and writing every weight once, one file of them in memory."""
    cost = cost_of(config.model, inputs)
    if cost is None:
        return Cost(cpu_s=5.0, memory_mb=700.0, note="a model of unknown size")
    weights_mb = cost.parameters * (4 if config.dtype == "fp32" else 2) / 1e6
    note = f"{cost.parameters / 1e6:,.1f} M weights"
    return Cost(cpu_s=5.0 + weights_mb / 200, disk_mb=weights_mb, memory_mb=1500.0, note=note)
