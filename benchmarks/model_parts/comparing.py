"""The two orders of one case: held against each other, then timed in turn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from vlforge.models.base import VisionLanguageModel

from .cases import Batch, Case, enter_stage, lean_loss, make_batch
from .measuring import Order, drift, flops, peak_mib, spread, take_turns
from .published import CHECKPOINTED, published_loss, published_setting

TOLERANCE = {"loss": 1e-5, "gradient": 1e-4, "worst_gradient": 1e-3}
"""In fp32, of what `drift` measures."""


class Disagreement(Exception):
    """The two orders do not compute the same thing; nothing is worth timing."""


def orders_of(model: VisionLanguageModel, batch: Batch) -> dict[str, Order]:
    """The published order and ours, over one batch."""
    return {
        "published": Order(
            functools.partial(published_loss, model, batch),
            functools.partial(published_setting, model),
        ),
        "lean": Order(functools.partial(lean_loss, model, batch)),
    }


def agreement(
    model: VisionLanguageModel,
    case: Case,
    orders: Mapping[str, Order],
    names: list[str],
    tolerance: Mapping[str, float] = TOLERANCE,
) -> dict[str, float]:
    """How far the orders differ, as `drift` has it.

    Raises:
        Disagreement: by more than `tolerance`, or by something that is no number.
    """
    off = drift(model, orders["lean"], orders["published"], names)
    if any(not off[what] <= most for what, most in tolerance.items()):
        raise Disagreement(f"{case.title}: the two orders differ by {off}")
    return {what: float(f"{value:.1e}") for what, value in off.items()}


def compare(model: VisionLanguageModel, case: Case, rows: int, repeats: int) -> dict[str, Any]:
    """One case on the CPU: agreement, then the orders in turn.

    Raises:
        Disagreement: losses or gradients differ by more than rounding.
    """
    names = enter_stage(model, case.stage)
    batch = make_batch(model, case, rows)
    orders = orders_of(model, batch)
    off = agreement(model, case, orders, names)
    if model.family in CHECKPOINTED:
        setting = functools.partial(published_setting, model)
        orders["lean_checkpointed"] = Order(orders["lean"].loss, setting)
    take_turns(model, orders, repeats, "cpu")
    told = {name: _told(model, order, rows) for name, order in orders.items()}
    ours = [name for name in orders if name != "published"]
    return {
        "case": case.title,
        "rows": rows,
        "tokens": int(batch.mask.sum()) + rows * (model.image_tokens - 1),
        "supervised": int((batch.labels >= 0).sum()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "drift": off,
        **told,
        "ratios": {name: _ratios(orders, told, name) for name in ours},
    }


def _told(model: VisionLanguageModel, order: Order, rows: int) -> dict[str, Any]:
    return {
        "samples_per_s": spread([rows / seconds for seconds in order.wall]),
        "samples_per_cpu_s": spread([rows / seconds for seconds in order.cpu]),
        "peak_mib": round(peak_mib(model, order, "cpu"), 1),
        "gflop_per_sample": round(flops(model, order) / rows / 1e9, 3),
    }


def _ratios(orders: Mapping[str, Order], told: Mapping[str, Any], name: str) -> dict[str, Any]:
    slow, fast = orders["published"], orders[name]
    return {
        "wall": spread([a / b for a, b in zip(slow.wall, fast.wall, strict=True)]),
        "cpu": spread([a / b for a, b in zip(slow.cpu, fast.cpu, strict=True)]),
        **{
            what: round(told["published"][key] / told[name][key], 2)
            for what, key in (("memory", "peak_mib"), ("products", "gflop_per_sample"))
        },
    }
