"""Real sizes on a GPU: random weights in bf16, each order with as many rows as fit.

FLOPs for MFU are those that a step needs when nothing is computed twice or for nothing
(`ModelCost.sample_flops`), whichever order is timed; HFU has the products that were run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from vlforge.models.base import VisionLanguageModel
from vlforge.models.cost import model_cost
from vlforge.models.sizes import SIZES

from .cases import STAGES, Case, build, enter_stage, make_batch
from .comparing import Disagreement, agreement, orders_of
from .measuring import MIB, Order, clear, flops, peak_mib, short, spread, time_one, wait

REAL = (
    Case("mgm-2b", SIZES["mgm-2b"], stage=1, text=64, supervised=60),
    Case("mgm-2b", SIZES["mgm-2b"], stage=2, text=324, supervised=250),
    Case("llava-1.5-7b", SIZES["llava-1.5-7b"], stage=1, text=24, supervised=20),
    Case("llava-1.5-7b", SIZES["llava-1.5-7b"], stage=2, text=254, supervised=120),
    Case("minigpt4-7b", SIZES["minigpt4-7b"], stage=1, text=26, supervised=25),
    Case("minigpt4-7b", SIZES["minigpt4-7b"], stage=2, text=108, supervised=80),
)
"""Rows of equal length: 640, 900, 600, 830, 58 and 140 tokens, the picture's among them."""

TOLERANCE = {"loss": 1e-2, "gradient": 0.1}
"""In bf16, which rounds at the third digit, of what `drift` measures."""

PEAKS = {
    "B200": 2250e12, "GH200": 989e12, "H200": 989e12, "H800": 989e12, "H100 PCIe": 756e12,
    "H100 NVL": 835e12, "H100": 989e12, "H20": 148e12, "A100": 312e12, "A800": 312e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A40": 150e12, "A10G": 70e12, "A10": 125e12,
    "A30": 165e12, "A6000": 155e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Dense bf16 products a second by the makers' data sheets, the longer name first."""

SHARE = 0.85
"""Of the free memory that a batch may fill: the allocator loses some between two orders."""


def peak_of(name: str) -> float | None:
    """What the maker promises of a device of this name; None where it is not listed."""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def product_peak(device: str, side: int = 8192, seconds: float = 1.0) -> float:
    """FLOP a second of one large bf16 product, the best of those that fit into `seconds`."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in "ab")
    best, ends = 0.0, time.perf_counter() + seconds
    while True:
        wait(device)
        started = time.perf_counter()
        for _ in range(4):
            left @ right
        wait(device)
        best = max(best, 4 * 2 * side**3 / (time.perf_counter() - started))
        if time.perf_counter() > ends:
            return best


def rows_that_fit(one: float, two: float, free: float, most: int) -> int:
    """Rows for which there is memory, from what one and two rows took; at least 1."""
    each = max(two - one, 1e-9)
    return max(1, min(most, int((SHARE * free - (one - each)) / each)))


def free_mib(device: str) -> float:
    """Memory that is left on a GPU, MiB."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0] / MIB


def measure_real(
    model: VisionLanguageModel,
    case: Case,
    device: str,
    seconds: float,
    most: int,
    peaks: dict[str, float | None],
    free: float | None = None,
) -> dict[str, Any]:
    """One case: agreement over two rows, memory, then both orders in turn.

    Args:
        seconds: that each order is timed for, after one step that is not.
        most: rows at most.
        peaks: FLOP a second by name; None where one is not known.
        free: memory that a step may take, MiB; None: what the GPU has left.

    Raises:
        Disagreement: losses or gradients differ by more than rounding.
    """
    names = enter_stage(model, case.stage)
    orders = orders_of(model, make_batch(model, case, 2))
    off = agreement(model, case, orders, names, TOLERANCE)
    rows = {
        name: _fitting(model, case, name, device, most, free_mib(device) if free is None else free)
        for name in orders
    }
    executed = {name: flops(model, one) for name, one in _orders(model, case, 1).items()}
    found = _in_turn(model, case, rows, seconds, device)
    needed = model_cost(case.config).sample_flops(
        case.text, case.supervised, 1, model.stages[STAGES[case.stage]]
    )
    told = {
        name: _told(order, rows[name], needed, executed[name], peaks)
        for name, order in found.items()
    }
    for name, order in _sized(model, case, rows).items():
        told[name]["peak_gib"] = round(peak_mib(model, order, device) / 1024, 2)
    clear(model)
    faster = told["lean"]["samples_per_s"][1] / told["published"]["samples_per_s"][1]
    return {
        "case": case.title,
        "tokens_per_row": case.text + model.image_tokens,
        "supervised_per_row": case.supervised,
        "weights_gib": round(sum(p.nbytes for p in model.parameters()) / 2**30, 2),
        "needed_tflop_per_sample": round(needed / 1e12, 3),
        "drift": off,
        **told,
        "ratio": short(faster),
    }


def _orders(model: VisionLanguageModel, case: Case, rows: int) -> dict[str, Order]:
    return orders_of(model, make_batch(model, case, rows))


def _sized(model: VisionLanguageModel, case: Case, rows: dict[str, int]) -> dict[str, Order]:
    return {name: _orders(model, case, count)[name] for name, count in rows.items()}


def _fitting(
    model: VisionLanguageModel, case: Case, name: str, device: str, most: int, free: float
) -> int:
    one, two = (peak_mib(model, _orders(model, case, rows)[name], device) for rows in (1, 2))
    return rows_that_fit(one, two, free, most)


def _in_turn(
    model: VisionLanguageModel, case: Case, rows: dict[str, int], seconds: float, device: str
) -> dict[str, Order]:
    """Steps of both orders; one that has no memory gets half the rows (`rows` is changed)."""
    while True:
        orders = _sized(model, case, rows)
        short = _step_until(model, orders, seconds, device)
        if short is None:
            return orders
        if rows[short] == 1:
            raise MemoryError(f"{case.title}: no memory for one row in the {short} order")
        rows[short] //= 2
        clear(model)
        torch.cuda.empty_cache()


def _step_until(
    model: VisionLanguageModel, orders: dict[str, Order], seconds: float, device: str
) -> str | None:
    """Run in turn until each has had its seconds; the order that has no memory, or None."""
    for turn in range(1000):
        for name, order in orders.items():
            clear(model)
            if not _fits(order, device):
                return name
        if turn == 0:  # choosing kernels takes its time once
            for order in orders.values():
                order.wall.clear()
                order.cpu.clear()
        elif turn >= 2 and all(sum(order.wall) >= seconds for order in orders.values()):
            return None
    return None


def _fits(order: Order, device: str) -> bool:
    """Time one step; False where there was no memory for it."""
    try:
        with order.setting():
            time_one(order, device)
    except torch.OutOfMemoryError:
        return False
    return True


def _told(
    order: Order, rows: int, needed: float, executed: float, peaks: dict[str, float | None]
) -> dict[str, Any]:
    rate = rows / statistics.median(order.wall)
    used = {
        f"{what}_of_{name}": short(work * rate / peak)
        for what, work in (("mfu", needed), ("hfu", executed))
        for name, peak in peaks.items()
        if peak
    }
    return {
        "rows": rows,
        "steps": len(order.wall),
        "samples_per_s": spread([rows / wall for wall in order.wall]),
        "executed_tflop_per_sample": round(executed / 1e12, 3),
        **used,
    }


def measure_all(
    cases: list[Case],
    device: str,
    seconds: float,
    most: int,
    peaks: dict[str, float | None],
    ends: float,
    free: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Results as they come; a case that fails, or whose time is over, says so in its place.

    Args:
        ends: `time.perf_counter()` after which no case is begun.
    """
    name, model = "", None
    for case in cases:
        if time.perf_counter() > ends:
            yield {"case": case.title, "not_measured": "no time left"}
            continue
        if case.name != name:
            model = None  # the last one goes before the next one comes
            if device != "cpu":
                torch.cuda.empty_cache()
            name, model = case.name, build(case.config, device, torch.bfloat16)
        assert model is not None
        try:
            yield measure_real(model, case, device, seconds, most, peaks, free)
        except (Disagreement, MemoryError, RuntimeError, ValueError) as error:
            yield {"case": case.title, "not_measured": " ".join(str(error).split())[:300]}
            clear(model)
