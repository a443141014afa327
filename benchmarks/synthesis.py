"""Synthesis' speeds as JSON: captions a second, filters that share a CLIP, a busy server.

    python benchmarks/synthesis.py [--rows 256] [--repeats 3] [--out synthesis.json]

`captioning`: the same BLIP-2 (random weights; captions of about eleven words) captions the
same jpegs by `image_captioning_mapper`, by a call of `generate` per sample as Data-Juicer
1.4 does, and by a call per eight pictures as 1.6 does. One greedy candidate, so all three
must say the same, or this stops with exit code 1; `three_candidates` samples, where the
words may differ. Models are open before the clock starts; files are opened behind it.
`clip_filters`: four filters that know pictures by one CLIP, in one recipe, against the sum
of what each takes alone; their statistics must be the same. `endpoint`: the mapper asks a
server on this machine that answers after a while; `of_ideal` is the shortest possible time
(requests x latency / concurrency) over the time taken. Medians of the repeats, taken in
turn; one thread.
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
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

SERVER = Path(__file__).parent / "synthesis_parts" / "server.py"
CONCURRENCY, LATENCY_S = 16, 0.1


class Taken(NamedTuple):
    """Median seconds: on the clock, and of a processor, which others' load hardly changes."""

    wall: float
    cpu: float


def timed(
    ways: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, Taken], dict[str, Any]]:
    """What each way takes, all in turn, and what it gave."""
    taken: dict[str, list[Taken]] = {name: [] for name in ways}
    gave: dict[str, Any] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            gave[name] = way()
            taken[name].append(Taken(time.perf_counter() - wall, time.process_time() - cpu))
    medians = {
        name: Taken(*map(statistics.median, zip(*values, strict=True)))
        for name, values in taken.items()
    }
    return medians, gave


def run_ops(process: list[Any], rows: list[dict[str, Any]], models: Any) -> list[Any]:
    """The rows that stay, in blocks as the engine takes them."""
    from vlforge.engine.in_memory import run_in_memory
    from vlforge.engine.plan import PIXEL_BLOCK
    from vlforge.ops.batch import Context, Item
    from vlforge.ops.bind import bind

    bounds, context, kept = bind(process), Context(models=models), []
    for at in range(0, len(rows), PIXEL_BLOCK):
        items = [
            Item(str(at + n), at + n, dict(row)) for n, row in enumerate(rows[at:][:PIXEL_BLOCK])
        ]
        kept += run_in_memory(bounds, items, context).kept
    return kept


def measure_captioning(
    folder: Path, rows: list[dict[str, Any]], repeats: int, size: Any
) -> dict[str, Any]:
    """Captions a second by the mapper and by Data-Juicer's loops.

    Raises:
        SystemExit: the captions differ.
    """
    from synthesis_parts.models import write_blip2
    from synthesis_parts.plain import caption_by

    from vlforge.inference.local import LocalModels

    path = str(write_blip2(folder / "blip2", size))
    models = LocalModels(device="cpu")
    loaded = models.loaded(path)

    def ours(count: int, some: list[dict[str, Any]] = rows) -> list[str]:
        mapper = {"hf_img2seq": path, "keep_original_sample": False, "caption_num": count}
        kept = run_ops([{"image_captioning_mapper": mapper}], some, models)
        return [item.row["text"].split("> ")[1].split(" <")[0] for item in kept]

    def theirs(together: int, candidates: int) -> list[str]:
        found = caption_by(loaded.model, loaded.processor, rows, together, candidates)
        return [texts[0] for texts in found]

    ours(1, rows[:2])  # opens modules; the model is open already
    ways = {"one": lambda: theirs(1, 1), "eight": lambda: theirs(8, 1), "ours": lambda: ours(1)}
    seconds, said = timed(ways, repeats)
    for way in ("one", "eight"):
        unlike = sum(a != b for a, b in zip(said[way], said["ours"], strict=True))
        if unlike:
            raise SystemExit(f"{unlike} of {len(rows)} captions differ between {way} and ours")
    several, _ = timed({"eight": lambda: theirs(8, 3), "ours": lambda: ours(3)}, repeats)
    lengths = [len(text.split()) for text in said["ours"]]
    return {
        "pictures": len(rows),
        "weights_millions": round(sum(w.numel() for w in loaded.model.parameters()) / 1e6, 1),
        "different_captions": len(set(said["ours"])),
        "words": {"mean": round(statistics.mean(lengths), 1), "most": max(lengths)},
        **_compared(len(rows), seconds),
        "three_candidates": _compared(3 * len(rows), several),
    }


def _compared(count: int, seconds: dict[str, Taken]) -> dict[str, Any]:
    """Captions a second, and how many times as many ours are as each other's."""
    ours, others = seconds["ours"], [name for name in seconds if name != "ours"]
    return {
        "captions_per_s": {n: round(count / taken.wall, 1) for n, taken in seconds.items()},
        "captions_per_cpu_s": {n: round(count / taken.cpu, 1) for n, taken in seconds.items()},
        "speedup": {name: round(seconds[name].wall / ours.wall, 2) for name in others},
        "cpu_speedup": {name: round(seconds[name].cpu / ours.cpu, 2) for name in others},
    }


def measure_clip_filters(
    folder: Path, rows: list[dict[str, Any]], repeats: int, size: Any
) -> dict[str, Any]:
    """Seconds of four filters together, and of each alone.

    Raises:
        SystemExit: the statistics differ.
    """
    from synthesis_parts.clip import filters_of, write_clip

    from vlforge.inference.local import LocalModels

    clip = write_clip(folder / "clip", size.width, size.layers, size.side)
    filters = filters_of(folder, clip)
    models = LocalModels(device="cpu")

    def stats(process: list[Any]) -> list[dict[str, Any]]:
        return [item.stats for item in run_ops(process, rows, models)]

    stats(filters)  # opens the model
    ways: dict[str, Callable[[], Any]] = {"together": lambda: stats(filters)}
    ways |= {next(iter(one)): lambda one=one: stats([one]) for one in filters}
    seconds, found = timed(ways, repeats)
    for name in list(ways)[1:]:
        for alone, together in zip(found[name], found["together"], strict=True):
            if any(together[stat] != value for stat, value in alone.items()):
                raise SystemExit(f"{name} measures something else alone")
    together, alone = seconds["together"], [seconds[name] for name in list(ways)[1:]]
    return {
        "filters": len(filters),
        "cpu_seconds": {name: round(taken.cpu, 3) for name, taken in seconds.items()},
        "speedup_over_each_alone": round(sum(t.wall for t in alone) / together.wall, 2),
        "cpu_speedup_over_each_alone": round(sum(t.cpu for t in alone) / together.cpu, 2),
    }


@contextmanager
def serving(latency_s: float, together: int) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, str(SERVER), str(latency_s), str(together)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def measure_endpoint(rows: list[dict[str, Any]], repeats: int, together: int = 0) -> dict[str, Any]:
    """How near the mapper comes to what the server could answer.

    Args:
        together: requests that the server waits for, once, whatever that costs.
    """
    from vlforge.inference.local import LocalModels
    from vlforge.types import EndpointSpec

    mapper = {"hf_img2seq": "server", "keep_original_sample": False}
    with serving(LATENCY_S, together) as address:
        spec = EndpointSpec("made", f"{address}/v1", concurrency=CONCURRENCY)

        def ask(some: list[dict[str, Any]] = rows) -> int:
            models = LocalModels(endpoints={"server": spec})
            return len(run_ops([{"image_captioning_mapper": mapper}], some, models))

        ask(rows[:2])
        seconds, found = timed({"ours": ask}, repeats)
        with urllib.request.urlopen(address) as answer:
            most = json.loads(answer.read())["most"]
    if found["ours"] != len(rows):
        raise SystemExit(f"{found['ours']} of {len(rows)} rows have a caption")
    ideal = len(rows) * LATENCY_S / CONCURRENCY
    return {
        "requests": len(rows),
        "concurrency": CONCURRENCY,
        "latency_s": LATENCY_S,
        "requests_per_s": round(len(rows) / seconds["ours"].wall, 1),
        "cpu_ms_a_request": round(1000 * seconds["ours"].cpu / len(rows), 2),
        "most_at_once": most,
        "of_ideal": round(ideal / seconds["ours"].wall, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="models that only show it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import torch
    from synthesis_parts.made import write_rows
    from synthesis_parts.models import Size

    torch.set_num_threads(1)
    size = Size(width=64, layers=1, side=28, queries=4, vocabulary=256) if options.tiny else Size()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder / "pictures", options.rows)
        found = {
            "benchmark": "synthesis",
            "repeats": options.repeats,
            "load_average": round(os.getloadavg()[0], 2),
            "captioning": measure_captioning(folder, rows, options.repeats, size),
            "clip_filters": measure_clip_filters(folder, rows, options.repeats, size),
            "endpoint": measure_endpoint(rows, options.repeats, CONCURRENCY if options.tiny else 0),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
