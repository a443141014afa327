"""The switches of a train stage that change its speed and memory and no number of it.

What is left out, what is computed twice, and what goes through torch.compile.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from vlforge.models.base import PARTS
from vlforge.models.lean import apply_lean
from vlforge.models.parts.recompute import layers_of
from vlforge.training.config import TrainConfig
from vlforge.training.contradictions import group_of
from vlforge.training.freezing import parts_of
from vlforge.training.parallel import Parallel, settle_parallel
from vlforge.training.pictures import machine_memory
from vlforge.training.room import Pass, choose_twice, rows_of_pass
from vlforge.types import ModelError, RecipeError

OPTIMISER_BYTES = 12
"""Of a weight that learns, besides itself: an fp32 gradient and AdamW's two moments."""


def make_lean(
    config: TrainConfig, model: Any, data: Any, learning: Collection[str], devices: Any
) -> dict[str, Any]:
    """Switch a stage's model; what was decided, for the log.

    Args:
        learning: names of the parameters that learn.
        devices: `.device` and `.count`.

    Raises:
        RecipeError: `compile: on` where nothing can compile.
    """
    device = devices.device
    try:
        room = choose_twice(
            config.checkpointing,
            model.cost(),
            largest_pass(config, model, data, learning, devices),
            device_memory(device) / (1 if device.type == "cuda" else devices.count),
            config.lean,
        )
        twice, said = room.twice, room.said()
    except ModelError as error:
        twice = () if config.checkpointing == "auto" else tuple(config.checkpointing)
        said = f"as asked: {error}"
    counts = apply_lean(model, config.lean, twice)
    compiled = compile_layers(config, model, device, twice)
    return {
        "checkpointing": counts,
        "why": said,
        "last_layer_rows": model.last_rows is not None,
        "compiled": compiled,
    }


def largest_pass(
    config: TrainConfig, model: Any, data: Any, learning: Collection[str], devices: Any
) -> Pass:
    """The pass of the longest row, as many times as a device sees rows at once."""
    on_gpu = devices.device.type == "cuda"
    share = math.ceil(int(config.batch) / devices.count)
    longest = int(data.rows.lengths.max())
    if config.pack == "isolated" and not isinstance(config.pack_length, str):
        longest = max(longest, config.pack_length)
    images = 1.0 if len(data.pictures.sources) else 0.0
    return Pass(
        rows=rows_of_pass(config.micro_batch, share, halves=on_gpu and devices.count == 1),
        text_tokens=max(0.0, longest - images * model.cost().image_tokens),
        supervised=int(data.rows.supervised.max()),
        images=images,
        learning=tuple(parts_of(learning, PARTS)),
        state=state_bytes(model, settle_parallel(config.parallel), devices.count),
        number=4 if config.precision == "fp32" or not on_gpu else 2,
    )


def state_bytes(model: nn.Module, parallel: Parallel, devices: int) -> float:
    """Of weights, gradients and moments on one device, as processes share them out."""
    shares_all = parallel.kind == "fsdp2" or (parallel.kind == "zero" and parallel.stage in (0, 3))
    shares = 1 if parallel.kind == "ddp" else devices
    found = 0.0
    for parameter in model.parameters():
        kept = parameter.element_size() / (shares if shares_all else 1)
        found += parameter.numel() * (kept + parameter.requires_grad * OPTIMISER_BYTES / shares)
    return found


def device_memory(device: torch.device) -> int:
    """Bytes that the device has, free or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def compile_layers(
    config: TrainConfig, model: nn.Module, device: torch.device, twice: Collection[str] = ()
) -> int:
    """Give layers to torch.compile, each by itself; says how many.

    Layers that are computed twice, and the last one where it sees some rows alone, stay as
    they are. auto compiles on a GPU where batches have few shapes: packs of one length, or
    rows grouped by it.

    Raises:
        RecipeError: `compile: on` where no compiler is found.
    """
    if config.compile == "off" or (config.compile == "auto" and not _pays(config, device)):
        return 0
    if missing := missing_compiler(device):
        if config.compile == "auto":
            return 0
        raise RecipeError(f"compile: on needs {missing}; install it, or set compile: off")
    kept = model.last_rows.layer if getattr(model, "last_rows", None) else None
    chosen = [
        layer
        for part, layers in layers_of(model).items()
        for layer in layers
        if part not in twice and layer is not kept
    ]
    for layer in chosen:
        layer.compile()
    return len(chosen)


def _pays(config: TrainConfig, device: torch.device) -> bool:
    packs = config.pack == "isolated" and config.pack_length != "auto"
    grouped = group_of(config) not in ("none", "balanced")
    return device.type == "cuda" and (packs or grouped)


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks to make code for a device; None where nothing."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "triton (pip install triton)"
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError):
        return "a C++ compiler (g++ or clang++)"
    return None
