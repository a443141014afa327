"""The processes that train side by side, and what the loop asks of them.

`open_devices` looks at how this process was started (alone, by torchrun, accelerate
or SLURM) and gives the one object that `fit` uses for all that several devices share.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vlforge.types import RecipeError


class Devices:
    """This process among `count`, its device, and the collectives of a step."""

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._accelerator.device

    @property
    def count(self) -> int:
        """Processes that train side by side."""
        return int(self._accelerator.num_processes)

    @property
    def index(self) -> int:
        """Which of them this one is, from 0."""
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return bool(self._accelerator.is_main_process)

    @property
    def scaler(self) -> Any:
        """The scale of fp16 losses, or None."""
        return self._accelerator.scaler

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module as all processes train it together."""
        return self._accelerator.prepare(module)

    def prepare_optimiser(self, optimiser: torch.optim.Optimizer) -> Any:
        """The optimiser as it steps here; `.optimizer` is the plain one."""
        return self._accelerator.prepare(optimiser)

    def passing(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Around a pass: gradients are shared after the last of a global batch alone."""
        return nullcontext() if is_last else self._accelerator.no_sync(module)

    def backward(self, loss: Tensor) -> None:
        """Gradients of one pass."""
        self._accelerator.backward(loss)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        """Scale gradients down to a total norm; gives the norm that they had."""
        return self._accelerator.clip_grad_norm_(parameters, norm)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, everywhere."""
        return self._accelerator.reduce(values, reduction="sum")

    def wait(self) -> None:
        """Go on when all processes are here."""
        self._accelerator.wait_for_everyone()


def open_devices(device: str, precision: str) -> Devices:
    """The devices that this process was given.

    On a CPU bf16 is a matter of products alone, see `kernels.cpu_products`.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        RecipeError: half precision where the device has none.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if on_cpu and device.startswith("cuda"):
        raise RecipeError(f"device {device!r}: this machine has no GPU; take cpu or auto")
    if device not in ("auto", "cpu", "cuda") and not device.startswith("cuda:"):
        raise RecipeError(f"device {device!r} is unknown; take auto, cpu, cuda or cuda:1")
    if not on_cpu and ":" in device:
        torch.cuda.set_device(device)
    if on_cpu and precision == "fp16":
        raise RecipeError("precision fp16 needs a GPU; take bf16 or fp32")
    # One process may run several stages: each opens with its own precision.
    AcceleratorState._reset_state()
    kind = "no" if on_cpu or precision == "fp32" else precision
    return Devices(Accelerator(cpu=on_cpu, mixed_precision=kind))
