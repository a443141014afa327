"""Whole training runs, our loop beside a loop as the references have it, as JSON.

    python benchmarks/train.py [--only mgm] [--repeats 3] [--out train.json]

The same files (jpegs, a LLaVA file, a model folder with random weights) go through
`vlforge.training.loop.train` and through a loop in the manner of transformers' Trainer
(`train_parts/plain.py` says what is in it), each run a fresh process, in turn. Scaled-down
Mini-Gemini, LLaVA and MiniGPT-4 in their published stages, and a padded mixture of long and
short rows, which ours packs (`train_parts/cases.py`).

Losses of every step must be equal within 1e-4, or the command ends with 1. Counted is
all that a sample takes: reading, decoding, making batches, steps. `samples_per_s` and
`samples_per_cpu_s` are least, median and most; `wait_share` is the part of the time that the
loop stands still for its next batch; `peak_mib` is the most memory of all processes of a run
(libraries and weights included), `kept_mib` what autograd keeps at once, from a run apart.
`ratios` say how many times more the plain loop takes, turn by turn. Look at `cpu` on a busy
machine: the plain loop has four worker processes besides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_parts.measuring import Cost, measured

LOOPS = ("ours", "plain")
TOLERANCE = 1e-4
HERE = Path(__file__).resolve()


class Disagreement(Exception):
    """The two loops do not learn the same thing; nothing is worth timing."""


@dataclass
class Runs:
    """What the runs of a loop took."""

    told: list[dict[str, Any]] = field(default_factory=list)
    whole: list[Cost] = field(default_factory=list)
    kept_mib: float = 0.0


def main() -> None:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="at most, of each case")
    parser.add_argument("--batch", type=int, default=1000, help="rows of a step at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="models of a few thousand weights")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        run_one(options)
        return
    try:
        result = measure(options)
    except Disagreement as error:
        sys.exit(str(error))
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every case that is asked for."""
    from model_parts.measuring import machine

    about = machine(options.threads)
    cases = [case for case in _cases(options) if options.only in case.name]
    told = []
    for case in cases:
        told.append(_measure_case(case, options))
        print(f"{case.name}: {told[-1]['ratios']}", file=sys.stderr, flush=True)
    return {
        "benchmark": "train",
        **about,
        "precision": "fp32",
        "repeats": options.repeats,
        "tolerance": TOLERANCE,
        "cases": told,
        "median_cpu_ratios": {one["case"]: one["ratios"]["cpu"][1] for one in told},
    }


def _cases(options: argparse.Namespace) -> list[Any]:
    from train_parts.cases import SMALL, TINY
    from train_parts.made import smaller

    return [
        smaller(case, options.steps, options.batch) for case in (TINY if options.tiny else SMALL)
    ]


def _measure_case(case: Any, options: argparse.Namespace) -> dict[str, Any]:
    from train_parts.made import make

    runs = {name: Runs() for name in LOOPS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(case, folder)
        for turn in range(options.repeats + 1):
            # Ours begins both kinds of runs: it writes down in which order rows come.
            for loop in LOOPS if turn < 2 or turn % 2 else reversed(LOOPS):
                _run(case, folder, loop, runs[loop], options, kept=turn == 0)
        off = _apart(case, folder)
    return _told(case, runs, off)


def _run(
    case: Any, folder: Path, loop: str, runs: Runs, options: argparse.Namespace, kept: bool
) -> None:
    """One process; those of turn 0 tell what is kept in one step, and are not timed."""
    command = [
        sys.executable, str(HERE), "--loop", loop, "--folder", str(folder), "--only", case.name,
        "--steps", str(1 if kept else options.steps), "--batch", str(options.batch),
        "--threads", str(options.threads),
    ]  # fmt: skip
    command += ["--tiny"] * options.tiny + ["--kept"] * kept
    cost = measured(command, folder / f"{loop}.log")
    told = json.loads((folder / f"{loop}.json").read_text())
    if kept:
        runs.kept_mib = told["kept_mib"]
        return
    runs.told.append(told)
    runs.whole.append(cost)


def _apart(case: Any, folder: Path) -> float:
    """How far the losses of the two loops are apart at most.

    Raises:
        Disagreement: further than rounding.
    """
    ours, plain = (json.loads((folder / f"{name}.losses").read_text()) for name in LOOPS)
    steps = list(zip(ours, plain, strict=True))
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in steps)
    if not worst <= TOLERANCE:
        raise Disagreement(f"{case.name}: losses differ by {worst:.1e}: {steps}")
    return worst


def _told(case: Any, runs: dict[str, Runs], off: float) -> dict[str, Any]:
    ours, plain = (runs[name] for name in LOOPS)
    return {
        "case": case.name,
        "rows": case.rows,
        "batch": case.batch,
        "losses_apart": float(f"{off:.1e}"),
        "wanted": case.wanted,
        **{name: _summary(case, runs[name]) for name in LOOPS},
        "ratios": {
            "wall": _ratio(plain, ours, "wall_s"),
            "cpu": _ratio(plain, ours, "cpu_s"),
            "kept": round(plain.kept_mib / ours.kept_mib, 2),
        },
    }


def _summary(case: Any, runs: Runs) -> dict[str, Any]:
    from model_parts.measuring import spread

    return {
        "samples_per_s": spread([case.rows / one["wall_s"] for one in runs.told]),
        "samples_per_cpu_s": spread([case.rows / one["cpu_s"] for one in runs.told]),
        "wait_share": round(statistics.median(one["wait_share"] for one in runs.told), 3),
        "peak_mib": round(statistics.median(cost.peak_mb for cost in runs.whole)),
        "kept_mib": runs.kept_mib,
    }


def _ratio(plain: Runs, ours: Runs, what: str) -> list[float]:
    from model_parts.measuring import spread

    return spread([a[what] / b[what] for a, b in zip(plain.told, ours.told, strict=True)])


def run_one(options: argparse.Namespace) -> None:
    """Be a measured process: one loop over one case's files."""
    import torch
    from train_parts.measuring import Keeping, Meter

    torch.set_num_threads(options.threads)
    (case,) = [case for case in _cases(options) if case.name == options.only]
    meter, folder = Meter(keeps=Keeping() if options.kept else None), options.folder
    if options.loop == "ours":
        from train_parts.ours import train_ours

        with tempfile.TemporaryDirectory(dir=folder) as out:
            found = train_ours(case, folder, Path(out), meter)
        (folder / "order.json").write_text(json.dumps(found["order"]))
        losses = found["losses"]
    else:
        from train_parts.plain import train_plainly

        losses = train_plainly(case, folder, json.loads((folder / "order.json").read_text()), meter)
    (folder / f"{options.loop}.losses").write_text(json.dumps(losses))
    (folder / f"{options.loop}.json").write_text(json.dumps(meter.told()))


if __name__ == "__main__":
    main()
