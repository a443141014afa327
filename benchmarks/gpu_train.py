"""Training stages at real sizes on a GPU through our loop, a JSON line each.

    python benchmarks/gpu_train.py [--case "mgm-2b stage 1"] [--threads 12] [--limit 2400]

Mini-Gemini-2B and LLaVA-1.5-7B in both stages, MiniGPT-4-7B in its first: published
configurations with random weights made on the device, photographs of 640 x 480 that are
made and decoded while it trains, texts of the real stages' average length. The whole of
`vlforge.training.loop.train` runs as in a recipe, but that the model is neither read nor
stored. Each case is a fresh process of a few minutes; none is begun after `limit` seconds.

A line has samples a second over the steps after the first ten, MFU (products that a step
needs when nothing is computed twice or for nothing, over the maker's peak and over a measured
large product), the share of the time in which the loop waits for a batch, and GiB at
most. What was not measured says why and ends the command with 1. Without a CUDA device
one line says that, and nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch


def main() -> None:
    """Measure what there is a device for, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="this one alone, in this process")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm", type=int, default=10, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=min(12, os.cpu_count() or 1))
    parser.add_argument("--limit", type=float, default=2400.0, help="no case begins after it")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: a test")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        reason = f"no CUDA device here (torch {torch.__version__})"
        print(json.dumps({"benchmark": "gpu_train", "not_measured": reason}))
        return
    from train_parts.real import REAL, TINY_REAL

    cases = TINY_REAL if options.tiny else REAL
    if options.case:
        sys.exit(not _one([case for case in cases if case.name == options.case], options))
    about = {"benchmark": "gpu_train", "torch": torch.__version__, "threads": options.threads}
    print(json.dumps(about), flush=True)
    started, failed = time.perf_counter(), False
    for case in cases:
        if time.perf_counter() - started > options.limit:
            print(json.dumps({"case": case.name, "not_measured": "no time left"}), flush=True)
            failed = True
            continue
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]]
        failed |= subprocess.run([*command, "--case", case.name]).returncode != 0
    sys.exit(int(failed))


def _one(cases: list, options: argparse.Namespace) -> bool:
    """Measure one case in this process and print its line; whether that went well."""
    from train_parts.real import measure_real

    from vlforge.types import VLForgeError

    if not cases:
        sys.exit(f"no case is called {options.case!r}")
    device = "cpu" if options.tiny else "cuda:0"
    try:
        told = measure_real(cases[0], device, options.threads, options.steps, options.warm)
    except (VLForgeError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300]
        print(json.dumps({"case": cases[0].name, "not_measured": reason}), flush=True)
        return False
    print(json.dumps(told), flush=True)
    return True


if __name__ == "__main__":
    main()
