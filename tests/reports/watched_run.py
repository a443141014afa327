"""Runs whose training was watched: looks, odd steps, speed, a resume; made, not trained."""

from __future__ import annotations

import random
from pathlib import Path

from tests.reports.made_run import HOSTILE, write_json, write_jsonl


def make_watched(folder: Path, *, arms: tuple[str, ...] = ("",), hostile: bool = False) -> Path:
    """An instruct stage of 400 steps, per arm."""
    nodes, log = [], []
    for number, arm in enumerate(arms):
        rng = random.Random(number)
        node = f"instruct@{arm}" if arm else "instruct"
        stage = folder / f"{number:02d}-{node}"
        write_stage(stage, rng, 1.0 - 0.3 * number, hostile)
        log += events_of(node, rng)
        nodes.append(
            {
                "node": node, "stage": "instruct", "kind": "train", "arm": arm, "seed": 0,
                "arms": [arm] if arm else [], "folder": stage.name, "needs": [], "seconds": 812.0,
                "peak_mb": 2100.0, "reused": False,
            }
        )  # fmt: skip
    write_json(folder / "graph.json", {"nodes": nodes})
    write_json(folder / "env.json", {"python": "3.11.2"})
    write_jsonl(folder / "log.jsonl", log)
    (folder / "recipe.yaml").write_text("name: watched\nstages: {}\n")
    return folder


def write_stage(folder: Path, rng: random.Random, end: float, hostile: bool) -> None:
    """Lines of every file that training leaves."""
    lines = []
    for step in range(1, 401):
        loss = end + 2.2 * 2.718 ** (-step / 60) + rng.gauss(0, 0.09)
        line = {"step": step, "samples": 16 * step, "loss": loss, "lr": rate(step)}
        lines.append(line | {"tokens": 640 * step, "supervised_tokens": 192 * step})
    lines[229] |= {"loss": 19.4, "skipped": "spike"}
    lines[310] |= {"loss": None, "skipped": "nan"}
    write_jsonl(folder / "metrics.jsonl", lines)
    looks = [
        {
            "step": step, "samples": 16 * step, "eval_rows": 256,
            "eval_loss": end + 0.12 + 2.2 * 2.718 ** (-step / 60),
            "benchmarks": {"textvqa": round(0.6 - 0.55 * 2.718 ** (-step / 90), 4)},
        }
        for step in range(50, 401, 50)
    ]  # fmt: skip
    write_jsonl(folder / "eval.jsonl", looks)
    name = HOSTILE if hostile else "conversations.json"
    rows = [{"row": f"{name}:{900 + k}", "loss": 3.0 + 9 * k} for k in range(8)]
    odd = {"step": 230, "kind": "spike", "action": "skip", "loss": 19.4}
    spikes = [
        odd | {"median": 1.05, "rows": rows},
        {"step": 311, "kind": "nan", "action": "skip", "loss": None,
         "rows": [{"row": f"{name}:17", "loss": None}]},
    ]  # fmt: skip
    write_jsonl(folder / "spikes.jsonl", spikes)
    write_json(folder / "summary.json", {"samples": 6400, "steps": 400, "tokens": 256_000})
    write_json(folder / "timing.json", {"seconds": 800.0, "peak_mb": 2100.0})


def rate(step: int) -> float:
    """A warmup and a line down."""
    return 2e-5 * min(step / 12, (400 - step) / 388)


def events_of(node: str, rng: random.Random) -> list[dict]:
    """Two starts: the first came to step 190, its last checkpoint was at 160."""
    events = []
    for begun, end in ((0, 190), (160, 400)):
        events.append({"event": "fit", "node": node, "from_step": begun, "steps": 400})
        for step in range(begun + 10, end + 1, 10):
            speed = 60 + rng.gauss(0, 2) - 20 * (step == begun + 10)
            event = {"event": "step", "node": node, "step": step, "samples": 16 * step}
            events.append(event | {"samples_per_second": speed})
    return events
