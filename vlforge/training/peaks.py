"""What a device could compute in a second at most: what a model's FLOPs are held against.

GPUs are known by name: dense bf16 products with fp32 sums, as their makers' data sheets
say it (where a sheet gives the figure with sparsity, half of it; V100 and T4 have no bf16,
theirs is fp16). MFU is over this figure whatever precision a stage takes. Of a CPU the
fastest of a few fp32 products is measured, once per process.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch

BF16_TFLOPS = {
    "GB200": 2500, "B200": 2250, "B100": 1750, "GH200": 989,
    "H200": 989, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989, "H800 PCIe": 756,
    "H800": 989, "H20": 148,
    "A100": 312, "A800": 312, "A30": 165, "A40": 150, "A10G": 70, "A10": 125,
    "L40S": 362, "L40": 181, "L4": 121,
    "RTX 6000 Ada": 364, "RTX A6000": 155, "RTX A5000": 111,
    "RTX 5090": 210, "RTX 4090": 165, "RTX 3090": 71,
    "V100": 125, "T4": 65,
    "MI355X": 2300, "MI325X": 1307, "MI300X": 1307, "MI250X": 383, "MI210": 181,
}  # fmt: skip
"""By a piece of the name that torch gives; the longest piece that fits counts."""

_SIDE, _ROUNDS = 512, 6


@dataclass(frozen=True)
class Peak:
    """FLOPs a second of one device, and how that is known; 0 where it is not."""

    flops: float
    how: str


def device_peak(device: torch.device) -> Peak:
    """The most that `device` could do."""
    if device.type == "cuda":
        return gpu_peak(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return Peak(*_measured(torch.get_num_threads()))
    return Peak(0.0, f"the peak of a device of type {device.type} is not known")


def gpu_peak(name: str) -> Peak:
    """Of a GPU by its name."""
    fitting = [piece for piece in BF16_TFLOPS if piece in name]
    if not fitting:
        return Peak(0.0, f"the peak of {name} is not known")
    piece = max(fitting, key=len)
    return Peak(BF16_TFLOPS[piece] * 1e12, f"{piece}, bf16: {BF16_TFLOPS[piece]} TFLOP/s")


@functools.cache
def _measured(threads: int) -> tuple[float, str]:
    """The best of a few products in fp32, in about a tenth of a second."""
    factor = torch.ones(_SIDE, _SIDE)
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        torch.mm(factor, factor)
        best = min(best, time.perf_counter() - start)
    flops = 2 * _SIDE**3 / best
    return flops, f"measured fp32 product, {threads} threads: {flops / 1e9:.0f} GFLOP/s"
