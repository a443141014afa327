"""Seconds, memory and FLOPs of two orders of one step, taken in turn, and how far they differ."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

MIB = 2**20


@dataclass
class Order:
    """One way to compute a loss: `loss()` inside of `setting()`."""

    loss: Callable[[], Tensor]
    setting: Callable[[], AbstractContextManager[None]] = nullcontext
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self) -> Tensor:
        """Value and gradients."""
        loss = self.loss()
        loss.backward()
        return loss.detach()


def clear(model: nn.Module) -> None:
    """Forget gradients."""
    for parameter in model.parameters():
        parameter.grad = None


def drift(model: nn.Module, ours: Order, other: Order, names: list[str]) -> dict[str, float]:
    """How far two orders differ, relatively: the loss, the whole gradient, its worst part.

    A parameter's gradient is off by the length of the difference over the gradient's own
    length, or over a thousandth of the whole gradient's where that is more: rounding noise
    of a gradient that is zero by mathematics says nothing. In bf16 the worst part is far
    off all the same in Mini-Gemini's published order, whose sums over all positions round.

    Raises:
        ValueError: a parameter that is to learn got no gradient, or all got zeros.
    """
    parameters = dict(model.named_parameters())
    first, kept = _gradients(parameters, model, ours, names)
    second, others = _gradients(parameters, model, other, names)
    clear(model)
    lengths = {name: _length(others[name]) for name in names}
    apart = {name: _length(kept[name] - others[name]) for name in names}
    whole = math.hypot(*lengths.values())
    if whole == 0:
        raise ValueError("every gradient is zero; nothing can be compared")
    worst = max(apart[name] / max(lengths[name], 1e-3 * whole) for name in names)
    return {
        "loss": abs(first / second - 1),
        "gradient": math.hypot(*apart.values()) / whole,
        "worst_gradient": worst,
    }


def _gradients(
    parameters: dict[str, nn.Parameter], model: nn.Module, order: Order, names: list[str]
) -> tuple[float, dict[str, Tensor]]:
    clear(model)
    with order.setting():
        loss = float(order.run())
    found: dict[str, Tensor] = {}
    for name in names:
        gradient = parameters[name].grad
        if gradient is None:
            raise ValueError(f"{name} is to learn and got no gradient")
        found[name] = gradient
    return loss, found


def _length(gradient: Tensor) -> float:
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return float(torch.linalg.vector_norm(gradient, dtype=wide))


def take_turns(model: nn.Module, orders: Mapping[str, Order], repeats: int, device: str) -> None:
    """Run every order `repeats` times, one after the other, and note wall and CPU seconds."""
    for turn in range(repeats):
        names = list(orders) if turn % 2 == 0 else list(reversed(orders))
        for name in names:
            clear(model)
            with orders[name].setting():
                time_one(orders[name], device)
    clear(model)


def time_one(order: Order, device: str) -> None:
    """Run once and note wall and CPU seconds."""
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    order.run()
    wait(device)
    order.wall.append(time.perf_counter() - wall)
    order.cpu.append(time.process_time() - cpu)


def wait(device: str) -> None:
    """Let a GPU finish."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def peak_mib(model: nn.Module, order: Order, device: str) -> float:
    """Most memory that a step takes above what stood before it, its gradients included, MiB."""
    clear(model)
    with order.setting():
        return (_cpu_peak if device == "cpu" else _cuda_peak)(order)


def _cuda_peak(order: Order) -> float:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    order.run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def _cpu_peak(order: Order) -> float:
    """By the allocator's own record, which torch's profiler keeps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        order.run()
    results = seen.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    level = top = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        level += event.nbytes()
        top = max(top, level)
    return top / MIB


def flops(model: nn.Module, order: Order) -> float:
    """Products that one step runs, forward and backward, recomputation included."""
    clear(model)
    counter = FlopCounterMode(display=False, custom_mapping=_fused_attention())
    with order.setting(), counter:
        order.run()
    return float(counter.get_total_flops())


def _fused_attention() -> dict[Any, Callable[..., int]]:
    """Formulas of the fused attentions: torch's counter does not know the CPU's."""
    kinds = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    names = {f"_scaled_dot_product_{kind}": _attention for kind in kinds}
    names |= {f"{name}_backward": _attention_backward for name in names}
    found = {getattr(torch.ops.aten, name, None): formula for name, formula in names.items()}
    return {packet: formula for packet, formula in found.items() if packet is not None}


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores and the mix of values, the whole square of it."""
    return _square(query, key) * (query[-1] + value[-1])


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores again, and the gradients of scores, values, queries and keys."""
    return _square(query, key) * (3 * query[-1] + 2 * value[-1])


def _square(query: Any, key: Any) -> int:
    return 2 * math.prod(query[:-1]) * key[-2]


def spread(values: list[float], digits: int = 3) -> list[float]:
    """Least, middle and most."""
    return [short(min(values), digits), short(statistics.median(values), digits),
            short(max(values), digits)]  # fmt: skip


def short(value: float, digits: int = 3) -> float:
    """Its first digits; what is small stays above zero."""
    return float(f"{value:.{digits}g}")


def machine(threads: int) -> dict[str, Any]:
    """Where it ran, and how busy it was."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }
