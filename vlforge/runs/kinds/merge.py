"""The `merge` stage: an adapter becomes part of its base, a whole model for the next stage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.flops import cost_of
from vlforge.training.config import MergeConfig
from vlforge.types import RecipeError


def run(config: MergeConfig, job: Job) -> None:
    """Merge into the stage folder."""
    import torch

    from vlforge.checkpoints.checkpoint import Parts, Writing
    from vlforge.checkpoints.merge import merge
    from vlforge.inference.native import is_adapted_native
    from vlforge.inference.native_merge import merge_native
    from vlforge.models.reading import write_json

    torch.set_num_threads(job.threads)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    how = Writing(
        dtype=dtypes.get(config.dtype),
        on_shard=lambda done, total: job.progress(done, total, "shards"),
        say=lambda line: job.log({"event": "note", "text": line}),
    )
    draft = job.out / "merging"
    shutil.rmtree(draft, ignore_errors=True)
    adapter = Path(config.adapter)
    if is_adapted_native(adapter):
        if config.to:
            raise RecipeError(f"{adapter} is merged as transformers' own model: leave to out")
        base = Path(config.base) if config.base else None
        done = merge_native(adapter, draft, how.dtype, base)
    else:
        done = merge(
            Path(config.base) if config.base else None,
            adapter,
            draft,
            Parts(vision=Path(config.vision) if config.vision else None),
            how=how,
            to=config.to,
        )
    for note in done.notes:
        job.log({"event": "note", "text": note})
    for file in sorted(draft.iterdir()):
        file.rename(job.out / file.name)
    draft.rmdir()
    facts = {"layout": done.layout, "tensors": done.tensors, "changed": done.changed}
    write_json(job.out / "merge.json", facts | {"notes": list(done.notes)})


def estimate(config: MergeConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """Reading and writing every weight once."""
    cost = cost_of(config.adapter, inputs)
    if cost is None:
        return Cost(cpu_s=5.0, memory_mb=700.0, note="a model of unknown size")
    weights_mb = cost.parameters * 4 / 1e6
    return Cost(
        cpu_s=5.0 + weights_mb / 200,
        disk_mb=weights_mb,
        memory_mb=700.0 + weights_mb,
        note=f"{cost.parameters / 1e6:,.1f} M weights",
    )
