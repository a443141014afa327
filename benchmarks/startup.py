"""How long a person waits before anything happens: the median of ten starts, as JSON.

    python benchmarks/startup.py [--starts 10] [--out startup.json]

`help` is `vlforge --help`; `process` reads ten text rows, runs three text
operators and writes what is kept. Each start is a new interpreter; one start
before the measured ones fills the file cache. The limit is 0.4 s for each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LIMIT_S = 0.4
RECIPE = """\
dataset_path: rows.jsonl
export_path: kept.jsonl
np: 1
process:
  - text_length_filter: {min_len: 5}
  - alphanumeric_filter: {min_ratio: 0.3}
  - special_characters_filter: {max_ratio: 0.5}
"""


def starts(command: Sequence[str], count: int, before: Callable[[], None]) -> list[float]:
    """Seconds of `count` runs of the command, each after `before`, the first run left out."""
    seconds = []
    for _ in range(count + 1):
        before()
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def measure(count: int) -> dict[str, object]:
    """Medians, all single times, and how busy the machine was."""
    vlforge = [sys.executable, "-m", "vlforge"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"text": f"a red circle above {i} blue squares", "id": str(i)} for i in range(10)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "recipe.yaml").write_text(RECIPE)
        export = folder / "kept.jsonl"
        process = [*vlforge, "process", str(folder / "recipe.yaml"), f"export_path={export}"]

        def clear() -> None:
            for path in sorted(folder.rglob("kept*"), reverse=True):
                path.unlink() if path.is_file() else None

        found = {
            "help": starts([*vlforge, "--help"], count, lambda: None),
            "process": starts(process, count, clear),
        }
        assert len(export.read_text().splitlines()) == 10
    return {
        **{f"{key}_s": round(statistics.median(times), 3) for key, times in found.items()},
        "limit_s": LIMIT_S,
        "times_s": {key: [round(t, 3) for t in times] for key, times in found.items()},
        "load": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
    }


def main() -> int:
    """Print the JSON, and keep it where `--out` says; 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = measure(options.starts)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return int(max(result["help_s"], result["process_s"]) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
