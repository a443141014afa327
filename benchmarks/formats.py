"""Rows a second and peak memory of reading each dataset format, beside the plain way, as JSON.

    python benchmarks/formats.py [--rows 200000] [--formats llava,csv] [--out formats.json]

Makes the same rows in every format once (kept under --data), written by json,
csv, tarfile and pyarrow. Each is then read by our format, which gives records,
and the plain way, which gives rows as the format has them: `json.load`, a line a
`json.loads`, `csv.DictReader`, `tarfile` with `json`, pyarrow's `to_pylist`.
Fresh processes, alternating, medians; both must count the same rows, characters
and bytes of pictures, or this ends with 1.

`seconds` are those of reading alone, after imports; they and memory are the process's own.
`writing` is the same rows written from memory by our writer and the plain way.
`bytes_s` is what it takes to read the files without a look at them, `grown` the
peak memory at all rows divided by that at a tenth of them, `speedup` how many
times longer the plain way took, by wall and by processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from format_parts.layouts import LAYOUTS, make
from format_parts.writing import UNWRITTEN

COUNTED = ("rows", "characters", "picture_bytes")


def told(part: str, how: str, name: str, path: Path) -> dict[str, Any]:
    """What one fresh process says: of `reading` or of `writing`."""
    root = Path(__file__).resolve().parent
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root.parent}"}
    command = [sys.executable, "-m", f"format_parts.{part}", how, name, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{how} {name}: {done.stderr[-1500:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians."""
    wall, cpu, peak = (
        statistics.median(run[what] for run in runs) for what in ("wall_s", "cpu_s", "peak_mb")
    )
    return {
        "rows_per_s": round(runs[0]["rows"] / wall),
        "seconds": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "peak_mb": round(peak, 1),
    }


def measure(name: str, folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """One format: both ways, and how memory grows."""
    path, tenth = make(name, folder, rows), make(name, folder, max(1, rows // 10))
    small = told("reading", "ours", name, tenth)
    told("reading", "bytes", name, path)  # so that no run is the first to read from the disk
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": [], "bytes": []}
    for _ in range(repeats):
        for how, found in runs.items():
            found.append(told("reading", how, name, path))
    ours, plain = summary(runs["ours"]), summary(runs["plain"])
    counts = [[runs[how][0][what] for what in COUNTED] for how in ("ours", "plain")]
    bytes_s = statistics.median(run["wall_s"] for run in runs["bytes"])
    return {
        "format": name,
        "rows": counts[0][0],
        "agree": counts[0] == counts[1],
        **({} if counts[0] == counts[1] else {"counted": dict(zip(runs, counts, strict=False))}),
        "ours": ours,
        "plain": plain,
        "speedup": {
            what: round(plain[f"{what}"] / ours[f"{what}"], 2) for what in ("seconds", "cpu_s")
        },
        "bytes_s": round(bytes_s, 3),
        "grown": round(ours["peak_mb"] / small["peak_mb"], 2),
        "writing": measure_writing(name, path, counts[1], repeats),
    }


def measure_writing(name: str, path: Path, wanted: list[int], repeats: int) -> dict[str, Any]:
    """Rows a second of our writer and of the plain way; both must hold the same."""
    if name in UNWRITTEN:
        return {"not_compared": UNWRITTEN[name]}
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for how, found in runs.items():
            found.append(told("writing", how, name, path))
    seconds = {
        how: statistics.median(run["wall_s"] for run in found) for how, found in runs.items()
    }
    same = all([found[0][what] for what in COUNTED] == wanted for found in runs.values())
    return {
        "agree": same,
        **{f"{how}_rows_per_s": round(wanted[0] / wall) for how, wall in seconds.items()},
        "speedup": round(seconds["plain"] / seconds["ours"], 2),
    }


def main() -> int:
    """Print the JSON, and keep it where `--out` says; 1 where the two ways disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--formats", type=lambda text: text.split(","), default=list(LAYOUTS))
    parser.add_argument("--data", type=Path, help="keeps made data between calls")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = (options.data or Path(name)).absolute()
        for format_ in options.formats:
            found.append(measure(format_, folder, options.rows, options.repeats))
            print(line_of(found[-1]), file=sys.stderr, flush=True)
            if options.data is None:
                shutil.rmtree(folder)
    result = {
        "what": f"reading {options.rows} rows in each format, median of {options.repeats} "
        "alternating fresh processes; plain: json, csv, tarfile, pyarrow",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_before": round(load, 2),
        "formats": found,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    agree = all(one["agree"] and one["writing"].get("agree", True) for one in found)
    return 0 if agree else 1


def line_of(one: dict[str, Any]) -> str:
    """One format on the terminal."""
    ours, plain, speedup = one["ours"], one["plain"], one["speedup"]
    written = one["writing"].get("speedup")
    agree = one["agree"] and one["writing"].get("agree", True)
    return (
        f"{one['format']:15} {ours['rows_per_s']:>9,} rows/s {ours['peak_mb']:7.1f} MB   plain "
        f"{plain['rows_per_s']:>9,} rows/s {plain['peak_mb']:8.1f} MB   {speedup['seconds']}x wall "
        f"{speedup['cpu_s']}x cpu, memory grown {one['grown']}x"
        f"{f', writing {written}x' if written else ''}{'' if agree else '   DIFFERENT'}"
    )


if __name__ == "__main__":
    sys.exit(main())
