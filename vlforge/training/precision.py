"""Which precision products, frozen parts and tf32 have, and the seeds of every library.

Weights that learn are fp32 and products run in `precision` (autocast): what torch
calls mixed precision. A part of which nothing learns needs no fp32: it is held in
the products' own precision, half the memory, and what rounding lost is kept aside
so that the model is written as it was read.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.training.config import TrainConfig

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def settle_precision(asked: str, device: str) -> Precision:
    """The precision of products: "auto" is bf16 on a GPU that has it, fp16 on an older one."""
    if asked != "auto":
        return asked  # type: ignore[return-value]
    if device == "cpu" or not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def as_in_a_step(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Products in the precision that a step has on this device."""
    if device.type == "cuda" and precision in ("bf16", "fp16"):
        return torch.autocast(device.type, DTYPES[precision])
    return nullcontext()


def allow_tf32(asked: bool | str, precision: Precision) -> None:
    """Let fp32 products use tensor cores where the recipe, or "auto", says so."""
    allowed = precision != "fp32" if asked == "auto" else bool(asked)
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, all devices: Better Synth's `set_seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def frozen_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What parts that do not learn are held in, the stage's precision settled."""
    if config.frozen_precision != "auto":
        return DTYPES[config.frozen_precision]
    return DTYPES[config.precision] if device.type == "cuda" else torch.float32


class Lightened:
    """Frozen parts in another precision, and what that rounding lost.

    Only whole parts are taken: where some weight of a part learns, the part stays.
    """

    def __init__(self, model: nn.Module, parts: Iterable[str], dtype: torch.dtype):
        self.lost: dict[str, Tensor] = {}
        self.model = model
        self.parts: set[str] = set()
        if dtype == torch.float32:
            return
        for part in parts:
            module = getattr(model, part, None)
            if module is None or any(p.requires_grad for p in module.parameters()):
                continue
            self.parts.add(part)
            self._lighten(part, module, dtype)

    @torch.no_grad()
    def _lighten(self, part: str, module: nn.Module, dtype: torch.dtype) -> None:
        for name, parameter in module.named_parameters():
            if not parameter.is_floating_point() or parameter.dtype == dtype:
                continue
            rounded = parameter.to(dtype)
            if not torch.equal(rounded.to(parameter.dtype), parameter):
                self.lost[f"{part}.{name}"] = parameter.detach().cpu().clone()
            parameter.data = rounded

    @torch.no_grad()
    def restore(self) -> None:
        """Back to fp32, bit by bit what was read; in main memory, a GPU may not hold it."""
        for name, parameter in self.model.named_parameters():
            if name.partition(".")[0] not in self.parts:
                continue
            if name in self.lost:
                parameter.data = self.lost[name]
            elif parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.cpu().float()
