"""The `train` stage: a vision-language model under a budget of samples."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vlforge.models.cost import ModelCost
from vlforge.models.stages import STAGES, USUAL, resolve
from vlforge.runs.job import Cost, Job, Upstream
from vlforge.runs.kinds.advice import advise
from vlforge.runs.kinds.flops import cost_of, family_of
from vlforge.runs.kinds.sizes import count_rows
from vlforge.training.budget import accumulation_of, samples_to_see, settle_batch
from vlforge.training.config import TrainConfig
from vlforge.training.contradictions import check_settings
from vlforge.training.identity import WITHOUT_EFFECT
from vlforge.training.mixture import mixtures
from vlforge.types import RecipeError

_TEXT_TOKENS = 40.0
_SUPERVISED = 20.0
"""Tokens a sample has when its data does not exist yet."""
_SMALL_MB = 2000.0
"""Weights up to which a CPU is a choice."""
_FROZEN_ON_GPU, _LEARNING = 2, 16
"""Bytes of a weight: bf16; fp32 with its gradient and AdamW's moments."""
_QUANTISED = {"8bit": 1.0, "4bit": 0.55}
PARTS = ("vision", "connector", "language")
TOGETHER = True
"""Several processes run a stage together."""
_MEANWHILE = "vlforge.runs.meanwhile"
UNKEYED = WITHOUT_EFFECT - {"export", "evaluate", "keep_best"}
"""Settings with which a stage leaves the same files."""


def run(config: TrainConfig, job: Job) -> None:
    """Train the model into the stage folder."""
    from vlforge.training.loop import train

    train(
        config,
        job.out,
        seed=job.seed if config.seed == "auto" else config.seed,
        device=job.device,
        threads=job.threads,
        stop=job.stop,
        name=f"{job.run_dir.name}/{job.node}",
        ask=_asker(config),
        progress=job.progress,
        log=job.log,
    )


def check(config: TrainConfig) -> None:
    """Raise for settings that cannot work, before a run begins."""
    check_settings(config)
    if config.evaluate and config.evaluate.benchmarks:
        from vlforge.evaluation.benchmarks import check_specs

        check_specs(config.evaluate.benchmarks)


def _asker(config: TrainConfig) -> Any:
    """Asks the benchmarks that the stage is looked at with."""
    if not config.evaluate or not config.evaluate.benchmarks:
        return None
    asking = importlib.import_module(_MEANWHILE)
    return asking.Meanwhile(config.evaluate.benchmarks, config.evaluate.benchmark_rows)


def extra_sources(settings: Mapping[str, Any]) -> Iterable[str]:
    """The modules that read the stage's datasets, and that ask benchmarks, for its key."""
    from vlforge.training.mixture import readers_of

    yield from readers_of(settings)
    evaluate = settings.get("evaluate") or {}
    if evaluate.get("data"):
        yield from readers_of(evaluate)
    if evaluate.get("benchmarks"):
        yield _MEANWHILE


def estimate(config: TrainConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """FLOPs of every sample; memory of weights, gradients and optimiser states."""
    samples = _samples(config, inputs)
    learns = resolve(config.train, STAGES.get(family_of(config.model, inputs) or "llava", USUAL))
    note = f"{samples:,} samples in batches of {_batch(config)}, learns {', '.join(learns)}"
    cost = cost_of(config.model, inputs)
    if cost is None:
        return Cost(gpu="yes", cpu_s=5.0, memory_mb=700.0, note=f"{note}; model of unknown size")
    parts = _parts(learns) - _adapted(config)
    weights_mb = cost.parameters * 4 / 1e6
    is_large = weights_mb > _SMALL_MB
    # Adapters learn beside frozen products: those only pass gradients through.
    flops = cost.sample_flops(_TEXT_TOKENS, _SUPERVISED, 1.0, parts or {"connector"}, config.lean)
    memory_mb = _memory_mb(config, cost, parts, is_large)
    is_whole = config.export != "connector" and not _adapted(config)
    return Cost(
        gpu="needed" if is_large else "yes",
        flops=samples * flops,
        cpu_s=5.0,
        disk_mb=weights_mb if is_whole else 4 * cost.connector.parameters / 1e6,
        memory_mb=500.0 + memory_mb,
        note=f"{note}, {cost.parameters / 1e6:,.1f} M weights",
        advice=_advice(config, inputs, cost, parts, memory_mb, samples) if is_large else (),
    )


def _advice(
    config: TrainConfig,
    inputs: Mapping[str, Upstream],
    cost: ModelCost,
    parts: set[str],
    memory_mb: float,
    samples: int,
) -> tuple[str, ...]:
    """What to compute twice and whether to keep features, on one device."""
    rows = sum(max(1, count_rows(part.path, inputs)) for part in mixtures(config.data))
    learns = [part for part in PARTS if part in parts | _adapted(config)]
    batch = config.batch if isinstance(config.batch, int) else 1
    share = config.micro_batch if isinstance(config.micro_batch, int) else batch
    crops = config.random_crop
    if crops == "auto":
        crops = family_of(config.model, inputs) == "minigpt4" and config.augment is False
    return advise(config, cost, learns, memory_mb * 1e6, share, rows, samples / rows, bool(crops))


def _memory_mb(config: TrainConfig, cost: ModelCost, parts: set[str], is_large: bool) -> float:
    """Weights, and of those that learn gradients and moments."""
    total = 0.0
    for part, size in cost.by_part().items():
        frozen = _QUANTISED.get(config.quantise if part == "language" else "none")
        frozen = frozen or (_FROZEN_ON_GPU if is_large else 4)
        total += size / 1e6 * (_LEARNING if part in parts else frozen)
    return total


def _adapted(config: TrainConfig) -> set[str]:
    """Parts that learn through adapters alone."""
    specs = {"language": config.lora, "vision": config.vision_lora}
    return {part for part, spec in specs.items() if spec is not None}


def _parts(learns: Iterable[str]) -> set[str]:
    """The parts that names and expressions are about."""
    return {part for name in learns for part in PARTS if part in name} or {"language"}


def _batch(config: TrainConfig) -> str:
    """The global batch; where the devices decide it, what one of them makes."""
    if config.batch != "auto":
        return f"{config.batch:,}"
    return f"{config.micro_batch} x {accumulation_of(config)} a device"


def _samples(config: TrainConfig, inputs: Mapping[str, Upstream]) -> int:
    sizes = [max(1, count_rows(part.path, inputs)) for part in mixtures(config.data)]
    try:
        batch = int(settle_batch(config, 1).batch)
    except RecipeError:
        # The recipe says what must come of more devices than one.
        batch = config.expect_global_batch or 1
    return samples_to_see(replace(config, drop_last=False), sizes, batch)
