"""`vlforge process` beside Data-Juicer, or beside a plain loop, on the same recipes, as JSON.

    python benchmarks/data.py [--peer /path/to/python] [--out data.json]

Makes 10,000 jpegs (mean about 24 KB, mostly 400x300) with captions once, keeps
them under --data, and runs the recipes

    R1      five text filters
    R2      three filters on picture headers
    R3x     R1, R2 and exact text dedup
    R3      R1, R2, perceptual-hash dedup and minhash dedup
    R3fast  R3 with `hash: fast`
    R3p     R1, R2 and perceptual-hash dedup (what the plain loop can follow)

as fresh commands, start and imports included. `--peer` names the Python of an
environment with py-data-juicer 1.6.1: its dj-process runs on the same recipe
files, alternating. Without it a plain loop over rows stands beside R1, R2, R3x
and R3p. Kept rows, their order and their statistics must be the same (1e-9);
differences are listed, and end the command with 1. `ratios` say how many times
more the other tool took.

`startup_10_rows` is R1 and R3 over ten rows. `scales` is R1 without pictures at
growing numbers of rows: time should grow with the rows, memory should not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from data_parts.agreement import agree, compare
from data_parts.captions import write_text_rows
from data_parts.measuring import Cost, Costs, measured, ratios
from data_parts.pictures import make_dataset, mean_bytes
from data_parts.recipes import PEER_RECIPE, write_recipe

WITH_PEER, WITH_PLAIN = ("R1", "R2", "R3x", "R3", "R3fast"), ("R1", "R2", "R3x", "R3p")
STARTUP = ("R1", "R3")
INEXACT = {"R3fast"}
"""Recipes whose kept rows may differ a little from Data-Juicer's."""


@dataclass
class Bench:
    """The commands, where they work, and what they took."""

    work: Path
    workers: int
    peer: Path | None
    costs: dict[tuple[str, str], Costs] = field(default_factory=dict)
    kept: dict[tuple[str, str], Path] = field(default_factory=dict)

    @property
    def other(self) -> str:
        """The tool that stands beside."""
        return "data_juicer" if self.peer else "plain"

    def run(self, tool: str, name: str, dataset: Path) -> Cost:
        """One run of a recipe over a dataset; what it keeps stays until the next run."""
        key = (tool, f"{name} {dataset.stem}")
        folder = self.work / "_".join(key).replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        recipe = write_recipe(folder / "recipe.yaml", name, dataset, self.workers)
        out = folder / "kept.jsonl"
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        # Both tools start from compiled modules, as after an installation.
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        if tool == "vlforge":
            command = [sys.executable, "-m", "vlforge", "process"]
            command += ["--config", str(recipe), "--export_path", str(out)]
        elif tool == "plain":
            root = Path(__file__).parent
            env["PYTHONPATH"] = f"{root}{os.pathsep}{root.parent}"
            command = [sys.executable, "-m", "data_parts.plain", str(recipe), str(out)]
        else:
            assert self.peer is not None
            # Its caches start empty, as they do for a dataset that is new.
            env |= {"HF_HOME": str(folder / "cache"), "HOME": str(folder / "cache")}
            command = [str(self.peer.with_name("dj-process"))]
            command += ["--config", str(recipe), "--export_path", str(out)]
        cost = measured(command, folder / "said.txt", env)
        self.costs.setdefault(key, Costs()).runs.append(cost)
        self.kept[key] = out
        print(f"{key[0]:12} {key[1]:22} {cost.wall_s:8.2f} s wall {cost.cpu_s:8.2f} s cpu "
              f"{cost.peak_mb:8.1f} MB", file=sys.stderr, flush=True)  # fmt: skip
        return cost

    def alternate(self, names: tuple[str, ...], dataset: Path, repeats: int) -> None:
        """All recipes with both tools, over and over; a recipe that both share runs once."""
        for _ in range(repeats):
            done = set()
            for name in names:
                self.run("vlforge", name, dataset)
                shared = PEER_RECIPE.get(name, name)
                if self._has_other(name) and shared not in done:
                    self.run(self.other, shared, dataset)
                done.add(shared)

    def _has_other(self, name: str) -> bool:
        return self.peer is not None or name in WITH_PLAIN

    def result(self, name: str, dataset: Path) -> dict[str, Any]:
        """Medians of one recipe, and how the two tools compare."""
        mine = ("vlforge", f"{name} {dataset.stem}")
        theirs = (self.other, f"{PEER_RECIPE.get(name, name)} {dataset.stem}")
        found: dict[str, Any] = {"recipe": name, "vlforge": self.costs[mine].summary()}
        if theirs in self.costs:
            found[self.other] = self.costs[theirs].summary()
            found["ratios"] = ratios(self.costs[mine], self.costs[theirs])
            found["agreement"] = compare(self.kept[mine], self.kept[theirs])
        return found


def measure_scales(bench: Bench, folder: Path, scales: list[int], repeats: int) -> dict[str, Any]:
    """R1 over text rows: seconds and memory at each number of rows."""
    found = []
    for rows in scales:
        path = folder / f"text_{rows}.jsonl"
        write_text_rows(path, rows)
        for _ in range(repeats):
            bench.run("vlforge", "R1", path)
        summary = bench.result("R1", path)["vlforge"]
        per_row = {f"{what}_us_per_row": round(summary[f"{what}_s"] / rows * 1e6, 2)
                   for what in ("wall", "cpu")}  # fmt: skip
        found.append({"rows": rows, **summary, **per_row})
    if len(found) < 2:
        return {"runs": found}
    first, last = found[0], found[-1]
    growth = [
        round((b["wall_s"] - a["wall_s"]) / (b["rows"] - a["rows"]) * 1e6, 2)
        for a, b in pairwise(found)
    ]
    return {
        "runs": found,
        "wall_us_per_further_row": growth,
        "memory_growth": round(last["peak_mb"] / first["peak_mb"], 2),
    }


def first_rows(path: Path, count: int) -> Path:
    """A file beside `path` with its first rows."""
    few = path.with_name(f"first_{count}.jsonl")
    with path.open("rb") as file:
        few.write_bytes(b"".join(islice(file, count)))
    return few


def measure(options: argparse.Namespace, work: Path) -> tuple[dict[str, Any], bool]:
    """Everything that was asked for, and whether the tools agree where they must."""
    bench = Bench(work, options.np, options.peer)
    names = tuple(options.recipes) or (WITH_PEER if options.peer else WITH_PLAIN)
    found: dict[str, Any] = {}
    dataset = make_dataset(options.data, options.rows)
    found["pictures_mean_bytes"] = round(mean_bytes(options.data))
    few = first_rows(dataset, 10)
    bench.alternate(names[:1], few, 1)
    bench.costs.clear()
    bench.alternate(names, dataset, options.repeats)
    found["recipes"] = [bench.result(name, dataset) for name in names]
    started = tuple(name for name in names if name in STARTUP)
    bench.alternate(started, few, options.repeats)
    found["startup_10_rows"] = [bench.result(name, few) for name in started]
    if options.scales:
        found["scales"] = measure_scales(bench, options.data, options.scales, options.repeats)
    compared = [one for one in found["recipes"] if "agreement" in one]
    fine = all(agree(one["agreement"]) for one in compared if one["recipe"] not in INEXACT)
    return found, fine


def numbers(text: str) -> list[int]:
    """`10000,1_000_000` as numbers; nothing gives none."""
    return [int(part) for part in text.split(",") if part]


def main() -> int:
    """Print the JSON, and keep it where `--out` says; 1 where kept rows differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="keeps made data between calls")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--np", type=int, default=2)
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=[])
    parser.add_argument("--scales", type=numbers, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--peer", type=Path, help="Python with py-data-juicer")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        options.data = (options.data or Path(name) / "data").absolute()
        options.data.mkdir(parents=True, exist_ok=True)
        before = os.getloadavg()[0]
        found, fine = measure(options, Path(name).absolute() / "work")
    result = {
        "what": f"{options.rows} rows with a jpeg each, np {options.np}, median of "
        f"{options.repeats} alternating fresh commands; memory is the processes' PSS",
        "beside": "py-data-juicer" if options.peer else "a plain loop over rows",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_before": round(before, 2),
        **found,
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    # Pairs of numbers on one line each.
    text = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
