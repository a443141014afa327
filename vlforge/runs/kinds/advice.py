"""What a plan advises a train stage: what to compute twice, whether to keep features."""

from __future__ import annotations

from collections.abc import Collection

from vlforge.models.cost import ModelCost
from vlforge.models.part_costs import VisionCost
from vlforge.runs.environment import gpu_memory
from vlforge.training.config import TrainConfig
from vlforge.training.room import GIB, Pass, cache_advice, choose_twice, rows_of_pass

USUAL_GPU = 80 * GIB
"""What is meant where this machine has no GPU; said with the advice."""
GPU_FLOPS = 2e14
"""A quarter of what a current data-centre GPU reaches in bf16; an assumption."""
_CAPTION = 128
"""Tokens of text behind a picture where the connector alone learns."""


def advise(
    config: TrainConfig,
    cost: ModelCost,
    learns: Collection[str],
    state: float,
    share: int,
    pictures: int,
    seen: float,
    is_cropped: bool,
) -> tuple[str, ...]:
    """Lines for the plan of a stage that needs a GPU.

    Args:
        learns: parts in which something learns, adapters too.
        state: bytes of weights, gradients and optimiser.
        share: rows of a global batch on one device.
        pictures: how many there are, each seen `seen` times.
        is_cropped: whether another part of each is seen every time.
    """
    told = gpu_memory()
    most = config.max_length - cost.image_tokens
    text = max(1, min(most, _CAPTION) if "language" not in learns else most)
    rows = rows_of_pass(config.micro_batch, share, halves=True)
    largest = Pass(rows, text, text, 1.0, tuple(learns), state)
    room = choose_twice(config.checkpointing, cost, largest, told or USUAL_GPU, config.lean)
    where = "of this machine's GPU" if told else "(a GPU is assumed)"
    count = f"{rows} row{'s' * (rows != 1)} of {text + cost.image_tokens:,} tokens"
    change = is_cropped or config.augment is not False
    kept = _cache(config, cost, learns, pictures, seen, text)
    if change and kept.startswith("cache: on"):
        kept = f"cache: off, pictures change each time; without that {kept.partition(': ')[2]}"
    return f"with {count} {room.said()} {where}", kept


def _cache(
    config: TrainConfig,
    cost: ModelCost,
    learns: Collection[str],
    pictures: int,
    seen: float,
    text: float,
) -> str:
    """Whether features should be kept on disk."""
    if "vision" in learns:
        return "cache: off, the encoder learns"
    each = feature_bytes(cost.vision)
    if cost.vision.gives:
        whole = f"{each / 1e6:,.1f} MB a picture, {each * pictures / 1e12:,.2f} TB"
        return f"cache: off, maps are larger than what decoding costs: {whole}"
    flops = cost.sample_flops(text, text, 1.0, set(learns), config.lean)
    return cache_advice(pictures, each, cost.vision.flops / flops, GPU_FLOPS / flops, seen)


def feature_bytes(vision: VisionCost) -> float:
    """Bytes in bf16 of what an encoder makes of a picture."""
    return 2 * (vision.tokens * vision.width + vision.gives)
