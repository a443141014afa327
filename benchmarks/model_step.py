"""Value and gradients of a training step, ours beside the references' order, as JSON.

    python benchmarks/model_step.py [--only mgm] [--repeats 5] [--out model_step.json]

Mini-Gemini, LLaVA and MiniGPT-4, scaled down, in their first and second stage: the public
classes of `vlforge.models` (`lean`: output layer on supervised rows, folded mining, layers
that nothing asks for not run, no checkpointing) beside a plain restatement of the published
order (`published`; `model_parts/published.py`) on the same weights and rows. Losses and
gradients of both have to agree first, or nothing is timed and the command ends with 1.
`lean_checkpointed` is ours with the language model's layers checkpointed, where the
published scripts do that: what is left at about the published memory.

They run in turn; of `repeats` steps the least, the median and the most are given. `peak_mib`
is what a step takes above the weights, gradients included. `ratios` say how many times more
the published order takes: of seconds (each turn by itself, then least, median, most), of CPU
seconds, memory and products. On a busy machine look at CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from model_parts.cases import build
from model_parts.comparing import Disagreement, compare
from model_parts.measuring import machine
from model_parts.small import SMALL


def measure(only: str, rows: int, repeats: int) -> list[dict[str, Any]]:
    """Every case whose name has `only` in it; the stages of a model share its weights."""
    found, name, model = [], "", None
    for case in SMALL:
        if only not in case.title:
            continue
        if model is None or case.name != name:
            name, model = case.name, build(case.config, "cpu", torch.float32)
        found.append(compare(model, case, rows, repeats))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = machine(options.threads)
    try:
        cases = measure(options.only, options.rows, options.repeats)
    except Disagreement as error:
        sys.exit(str(error))
    middle = {
        one["case"]: {name: ratios["cpu"][1] for name, ratios in one["ratios"].items()}
        for one in cases
    }
    result = {
        "benchmark": "model_step",
        **about,
        "precision": "fp32",
        "repeats": options.repeats,
        "cases": cases,
        "median_cpu_ratios": middle,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
