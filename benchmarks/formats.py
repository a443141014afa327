"""Rows a second and peak memory of reading each dataset format, beside the usual ways, as JSON.

    python benchmarks/formats.py [--rows 200000] [--formats llava,csv] [--peer PYTHON] [--out F]

Makes the same rows in every format once (kept under --data), written by json,
csv, tarfile and pyarrow. Each is then read by our format, which gives records, by
the plain way, which gives rows as the format has them (`json.load`, a line a
`json.loads`, `csv.DictReader`, `tarfile` with `json`, pyarrow's `to_pylist`), and with
--peer by datasets, webdataset or pycocotools in that interpreter. All must count the
same rows, characters and bytes of pictures, or this ends with 1.

Fresh processes, alternating, minima. `seconds` are those of reading alone, after
imports; they and memory are the process's own. `floor` is what no reader in Python
can be without: decoding the same bytes with nothing made of them, and making as many
records of constants; `of_ours` is their part of our processor time. `disk_s` is what it
takes to read the files without a look at them. `grown` is the peak memory at all rows
divided by that at a tenth of them; `speedup` is how many times longer another way
took, by wall and by processor time. `writing` is the same rows written from memory by
our writer and plainly.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from format_parts.decoding import WHAT
from format_parts.layouts import LAYOUTS, make
from format_parts.peers import LIBRARIES
from format_parts.writing import UNWRITTEN

_OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
COUNTED = ("rows", "characters", "picture_bytes")


def told(part: str, how: str, name: str, path: Path, python: str = sys.executable) -> dict:
    """What one fresh process says: of `reading` or of `writing`."""
    root = Path(__file__).resolve().parent
    places = [root] if how == "peer" else [root, root.parent]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), **_OFFLINE}
    command = [python, "-m", f"format_parts.{part}", how, name, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{how} {name}: {done.stderr[-1500:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The least that it took."""
    wall, cpu, peak = (min(run[what] for run in runs) for what in ("wall_s", "cpu_s", "peak_mb"))
    return {
        "rows_per_s": round(runs[0]["rows"] / wall),
        "seconds": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "peak_mb": round(peak, 1),
    }


def measure(name: str, folder: Path, rows: int, repeats: int, peer: str) -> dict[str, Any]:
    """One format: all ways, and how memory grows."""
    path, tenth = make(name, folder, rows), make(name, folder, max(1, rows // 10))
    small = told("reading", "ours", name, tenth)
    told("reading", "bytes", name, path)  # so that no run is the first to read from the disk
    pythons = dict.fromkeys(("ours", "plain", "decode", "make", "bytes"), sys.executable)
    if peer and name in LIBRARIES:
        pythons["peer"] = peer
    runs: dict[str, list[dict[str, Any]]] = {how: [] for how in pythons}
    for _ in range(repeats):
        for how, python in pythons.items():
            if how != "peer" or not runs[how]:
                runs[how].append(told("reading", how, name, path, python))
    readers = [how for how in runs if how in ("ours", "plain", "peer")]
    counts = {how: [runs[how][0][what] for what in COUNTED] for how in readers}
    agree = all(found == counts["ours"] for found in counts.values())
    found = {how: summary(runs[how]) for how in readers}
    ours = found.pop("ours")
    floor = {how: min(run["cpu_s"] for run in runs[how]) for how in ("decode", "make")}
    return {
        "format": name,
        "rows": counts["ours"][0],
        "agree": agree,
        **({} if agree else {"counted": counts}),
        "ours": ours,
        **found,
        **({"library": LIBRARIES[name]} if "peer" in found else {}),
        "speedup": {
            how: {what: round(one[what] / ours[what], 2) for what in ("seconds", "cpu_s")}
            for how, one in found.items()
        },
        "floor": {
            "decoded": WHAT[name],
            "decode_s": round(floor["decode"], 3),
            "make_s": round(floor["make"], 3),
            "of_ours": round((floor["decode"] + floor["make"]) / ours["cpu_s"], 2),
        },
        "disk_s": round(min(run["wall_s"] for run in runs["bytes"]), 3),
        "grown": round(ours["peak_mb"] / small["peak_mb"], 2),
    }  # fmt: skip


def measure_writing(name: str, folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Rows a second of our writer and of the plain way; both must hold the same."""
    if name in UNWRITTEN:
        return {"not_compared": UNWRITTEN[name]}
    path = make(name, folder, rows)
    source = told("reading", "plain", name, path)
    wanted = [source[what] for what in COUNTED]
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for how, found in runs.items():
            found.append(told("writing", how, name, path))
    seconds = {how: min(run["wall_s"] for run in found) for how, found in runs.items()}
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
    parser.add_argument("--peer", default="", help="an interpreter that has the libraries")
    parser.add_argument("--only-reading", action="store_true", help="writing is not measured")
    parser.add_argument("--data", type=Path, help="keeps made data between calls")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = (options.data or Path(name)).absolute()
        for format_ in options.formats:
            found.append(measure(format_, folder, options.rows, options.repeats, options.peer))
            if not options.only_reading:
                found[-1]["writing"] = measure_writing(
                    format_, folder, options.rows, options.repeats
                )
            print(line_of(found[-1]), file=sys.stderr, flush=True)
            if options.data is None:
                shutil.rmtree(folder)
    result = {
        "what": f"reading {options.rows} rows in each format, least of {options.repeats} "
        "alternating fresh processes (the library's: one); plain: json, csv, tarfile, pyarrow",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_before": round(load, 2),
        "formats": found,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    agree = all(one["agree"] and one.get("writing", {}).get("agree", True) for one in found)
    return 0 if agree else 1


def line_of(one: dict[str, Any]) -> str:
    """One format on the terminal."""
    ours, speedup = one["ours"], one["speedup"]
    ways = "".join(
        f"   {one.get('library', how) if how == 'peer' else how} {one[how]['rows_per_s']:>8,} "
        f"{one[how]['peak_mb']:6.0f} MB {speed['seconds']:.2f}x ({speed['cpu_s']:.2f}x cpu)"
        for how, speed in speedup.items()
    )
    writing = one.get("writing", {})
    written = writing.get("speedup")
    agree = one["agree"] and writing.get("agree", True)
    return (
        f"{one['format']:15} {ours['rows_per_s']:>9,} rows/s {ours['peak_mb']:6.1f} MB{ways}   "
        f"floor {one['floor']['of_ours']:.0%}, disk {one['disk_s']} s, memory {one['grown']}x"
        f"{f', writing {written}x' if written else ''}{'' if agree else '   DIFFERENT'}"
    )


if __name__ == "__main__":
    sys.exit(main())
