"""Training steps at real sizes on a GPU, ours beside the references' order, a JSON line each.

    python benchmarks/gpu_model_step.py [--only llava] [--seconds 15] [--limit 480]

Mini-Gemini-2B, LLaVA-1.5-7B and MiniGPT-4-7B in both stages, bf16, random weights made on
the device: value and gradients, no optimiser. Both orders (see `model_step.py`) must agree
over two rows; then each gets as many rows as fit into the free memory and they run in turn.
A line has samples a second (least, median, most), GiB that a step takes above the weights, MFU
(products that the step needs, over the maker's peak and over a measured large product) and
HFU (products that ran). No case is begun after `limit` seconds; what was not measured says
so and ends the command with 1. Without a CUDA device one line says that, and nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch


def main() -> None:
    """Measure what there is a device for, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--seconds", type=float, default=15.0, help="that an order is timed for")
    parser.add_argument("--limit", type=float, default=480.0, help="no case begins after it")
    parser.add_argument("--most-rows", type=int, default=48)
    options = parser.parse_args()
    started = time.perf_counter()
    if not torch.cuda.is_available():
        reason = f"no CUDA device here (torch {torch.__version__})"
        print(json.dumps({"benchmark": "gpu_model_step", "not_measured": reason}))
        return
    from model_parts.real import REAL, measure_all, peak_of, product_peak

    device, name = "cuda:0", torch.cuda.get_device_name(0)
    peaks = {"maker": peak_of(name), "product": product_peak(device)}
    about = {
        "benchmark": "gpu_model_step",
        "device": name,
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "torch": torch.__version__,
        "precision": "bf16",
        "tflop_per_s": {key: round(peak / 1e12) if peak else None for key, peak in peaks.items()},
    }
    print(json.dumps(about), flush=True)
    cases = [case for case in REAL if options.only in case.title]
    ends = started + options.limit
    failed = False
    for line in measure_all(cases, device, options.seconds, options.most_rows, peaks, ends):
        print(json.dumps(line), flush=True)
        failed |= "not_measured" in line
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
