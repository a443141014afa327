"""A run folder as the stages write it, made in a second: for the tests of the pages.

`python -m tests.reports.made_run DIR` writes one to look at.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {"red": "#d03a3a", "green": "#2f9d58", "blue": "#3564d0", "yellow": "#e3c12f"}
SHAPES = ("circle", "square", "triangle", "cross")
WORDS = ("CAT", "SUN", "TREE", "FISH", "MOON", "BIRD")
GROUNDS = ("white", "#777777", "#1b1b1b")
FAULTS = (None, "other picture", "boilerplate", "blank picture", "cut off", "repeat")
SHARES = (55, 24, 8, 4, 5, 4)
SKILL = {
    "raw": (0.01, 0.56),
    "filtered": (0.11, 0.61),
    "refined": (0.81, 0.72),
    "clean": (0.74, 0.70),
}
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> "\'>&amp; \ud83d\u202e\x07'
CHINESE = "一个红色的圆形，上面写着单词"


@dataclass(frozen=True)
class MadeFilter:
    """A filter of the made run: what it measures, its bounds and the fault it is there for."""

    name: str
    params: Mapping[str, Any]
    fault: str
    stat: str | None = None
    bounds: tuple[float, float | None] = (0.0, 1.0)


FILTERS = (
    MadeFilter("text_length_filter", {"min_len": 12}, "cut off", "text_len", (12, 120)),
    MadeFilter(
        "special_characters_filter",
        {"max_ratio": 0.25},
        "boilerplate",
        "special_char_ratio",
        (0.02, 0.25),
    ),
    MadeFilter("image_deduplicator", {"method": "phash"}, "repeat"),
    MadeFilter("image_entropy_filter", {"min": 1.5}, "blank picture", "image_entropy", (1.5, None)),
    MadeFilter(
        "image_text_agreement_filter", {"min_score": 0.4}, "other picture", "agreement", (0.4, 1.0)
    ),
)


@dataclass
class Graph:
    """Nodes as they are added, each with the folder it got."""

    folder: Path
    rng: random.Random
    nodes: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        stage: str,
        kind: str,
        needs: Sequence[str] = (),
        arm: str = "",
        seed: int | None = None,
    ) -> Path:
        """One node in the order of work; returns its new folder."""
        name = stage + (f"@{arm}" if arm else "") + ("" if seed is None else f".s{seed}")
        where = f"{len(self.nodes) + 1:02d}-{name}"
        self.nodes.append(
            {
                "node": name,
                "stage": stage,
                "arm": arm,
                "arms": [arm],
                "seed": seed or 0,
                "seeds": [seed or 0],
                "kind": kind,
                "key": "0" * 12,
                "folder": where,
                "needs": list(needs),
                "seconds": self.rng.uniform(1, 40),
                "peak_mb": self.rng.uniform(90, 700),
                "reused": False,
            }
        )
        (self.folder / where).mkdir(parents=True, exist_ok=True)
        return self.folder / where


def paint(path: Path, rng: random.Random, side: int = 64, is_blank: bool = False) -> str:
    """One picture of the world; returns the sentence that is true of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour, shape, word = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(WORDS)
    image = Image.new("RGB", (side, side), rng.choice(GROUNDS))
    if not is_blank:
        draw, ink = ImageDraw.Draw(image), COLOURS[colour]
        x, y, r = rng.randrange(18, 46), rng.randrange(30, 48), rng.randrange(8, 14)
        if shape == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        elif shape == "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=ink)
        elif shape == "triangle":
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=ink)
        else:
            draw.rectangle((x - r, y - 3, x + r, y + 3), fill=ink)
            draw.rectangle((x - 3, y - r, x + 3, y + r), fill=ink)
        draw.rectangle((0, 0, side, 13), fill="white")
        draw.text((18, 0), word, fill="black")
    image.save(path)
    return f"a {colour} {shape} under the word {word}"


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Rows as jsonl; lone surrogates stay escaped, as other writers leave them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def write_json(path: Path, value: Any) -> None:
    """A value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def dj(identity: str, text: str, image: Path) -> dict[str, Any]:
    """One dj row."""
    return {"id": identity, "text": f"<__dj__image> {text} <|__dj__eoc|>", "images": [str(image)]}


def make_world(
    folder: Path, rng: random.Random, rows: int, pictures: int, hostile: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str | None]]:
    """Seed rows with the fault of each, and the files; rows share pictures to be quick."""
    files = [folder / f"images/{k:04d}.png" for k in range(pictures)]
    captions = [paint(file, rng) for file in files]
    paint(folder / "images/blank.png", rng, is_blank=True)
    seed, faults = [], {}
    for k in range(rows):
        name, fault = f"{k:09d}", rng.choices(FAULTS, SHARES)[0]
        words = {
            "other picture": captions[(k + 3) % pictures],
            "boilerplate": "click here to buy now, free shipping!!!",
            "cut off": captions[k % pictures][:11],
        }.get(str(fault), captions[k % pictures])
        if hostile:
            words = {0: HOSTILE, 3: CHINESE}.get(k % 7, words)
        image = folder / "images/blank.png" if fault == "blank picture" else files[k % pictures]
        seed.append(dj(name, words, image))
        faults[name] = fault
    write_jsonl(folder / "seed.jsonl", seed)
    write_jsonl(
        folder / "truth.jsonl", ({"id": i, "fault": f, "scene": {}} for i, f in faults.items())
    )
    return seed, faults


def make_filter_stage(
    folder: Path, rng: random.Random, rows: list[dict[str, Any]], faults: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """A process stage that drops most rows with a fault; one line of its input was broken."""
    whole, ops = (
        len(rows) + 1,
        [mapper_entry("fix_unicode_mapper", {}, len(rows), min(3, len(rows)), 0.1)],
    )
    dropped = [
        {"uid": "ab12cd34ef56-99", "id": None, "line": 99, "op": "read", "reason": "broken line",
         "stat": None, "value": 'not JSON: {"text": "a gre', "bound": None, "row": {}}
    ]  # fmt: skip
    for one in FILTERS:
        rows, lost, entry = run_filter(one, rng, rows, faults)
        dropped += lost
        ops.append(entry)
    write_jsonl(folder / "data.jsonl", rows)
    write_jsonl(folder / "dropped.jsonl", dropped)
    write_jsonl(folder / "changed.jsonl", [])
    funnel = {
        "rows_in": whole,
        "rows_out": len(rows),
        "bad_lines": 1,
        "bad_reasons": {"broken line": 1},
    }
    write_json(folder / "funnel.json", {**funnel, "ops": ops, "seconds": 3.4, "peak_mb": 96})
    return rows


def run_filter(
    one: MadeFilter,
    rng: random.Random,
    rows: list[dict[str, Any]],
    faults: Mapping[str, str | None],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Rows that stay, drop records, and the operator's line in the funnel."""
    low, high = one.bounds[0], one.bounds[1] or 6.0
    kept, lost, values, stays = [], [], [], []
    for row in rows:
        is_bad = rng.random() < (0.85 if faults.get(row["id"]) == one.fault else 0.02)
        value = rng.gauss((low + high) / 2, (high - low) / 7)
        value = low * rng.uniform(0.2, 0.98) if is_bad else min(max(value, low), high)
        values.append(value)
        stays.append(not is_bad)
        if not is_bad:
            kept.append(row)
            continue
        why = {
            "reason": f"{one.stat} too low",
            "stat": one.stat,
            "value": value,
            "bound": f">= {low:g}",
        }
        again = {
            "reason": "repeats an earlier row",
            "stat": "repeats",
            "value": "ab12cd34ef56-0",
            "bound": None,
        }
        place = {
            "uid": f"ab12cd34ef56-{int(row['id'])}",
            "id": row["id"],
            "line": int(row["id"]) + 1,
        }
        lost.append({**place, "op": one.name, **(why if one.stat else again), "row": row})
    reasons = {lost[0]["reason"]: len(lost)} if lost else {}
    entry = {
        **mapper_entry(one.name, dict(one.params), len(rows), 0, 0.4),
        "kind": "filter",
        "rows_out": len(kept),
        "dropped": len(lost),
        "reasons": reasons,
        "stats": {one.stat: measured(values, stays, one.bounds)} if one.stat and values else {},
    }
    return kept, lost, entry


def measured(
    values: list[float], stays: list[bool], bounds: Sequence[float | None]
) -> dict[str, Any]:
    """A statistic's entry in the funnel."""
    low, high, bins = min(values), max(values), 24
    step = (high - low) / bins or 1.0
    counts, kept = [0] * bins, [0] * bins
    for value, stay in zip(values, stays, strict=True):
        k = min(bins - 1, int((value - low) / step))
        counts[k] += 1
        kept[k] += stay
    edges = [low + step * k for k in range(bins + 1)]
    return {
        "histogram": {"edges": edges, "counts": counts, "kept_counts": kept},
        "bounds": list(bounds),
        "min": low,
        "max": high,
        "mean": sum(values) / len(values),
    }


def mapper_entry(
    name: str, params: dict, rows: int, changed: int, seconds: float
) -> dict[str, Any]:
    """The funnel's line of an operator that drops nothing."""
    return {
        "op": name,
        "kind": "mapper",
        "params": params,
        "rows_in": rows,
        "rows_out": rows,
        "changed": changed,
        "dropped": 0,
        "added": 0,
        "seconds": seconds,
        "reasons": {},
        "stats": {},
    }


def make_caption_stage(folder: Path, rng: random.Random, rows: list[dict[str, Any]]) -> None:
    """A process stage that writes every caption anew."""
    changed = [
        {
            "uid": f"ab12cd34ef56-{int(row['id'])}/1",
            "id": row["id"],
            "op": "image_captioning_mapper",
            "before": row["text"],
            "after": f"<__dj__image> a large {rng.choice(list(COLOURS))} circle under the word "
            f"{rng.choice(WORDS)} on a white ground <|__dj__eoc|>",
        }
        for row in rows[:10]
    ]
    op = mapper_entry(
        "image_captioning_mapper", {"hf_img2seq": "$captioner"}, len(rows), len(rows), 9.3
    )
    write_jsonl(folder / "data.jsonl", rows)
    write_jsonl(folder / "dropped.jsonl", [])
    write_jsonl(folder / "changed.jsonl", changed)
    funnel = {"rows_in": len(rows), "rows_out": len(rows), "bad_lines": 0, "bad_reasons": {}}
    write_json(folder / "funnel.json", {**funnel, "ops": [op], "seconds": 9.4, "peak_mb": 480})


def make_training(folder: Path, rng: random.Random, samples: int, start: float, end: float) -> None:
    """A training stage's measurements."""
    steps = samples // 16
    write_jsonl(
        folder / "metrics.jsonl",
        (
            {
                "step": k + 1,
                "samples": 16 * (k + 1),
                "loss": end + (start - end) * 2.718 ** (-6 * k / steps) + rng.gauss(0, 0.08),
                "lr": 1e-3,
                "tokens": 640,
                "supervised_tokens": 192,
            }
            for k in range(steps)
        ),
    )
    summary = {"samples": samples, "steps": steps, "tokens": samples * 40, "final_loss": end}
    summary |= {"supervised_tokens": samples * 12, "trainable": 312_000, "parameters": 421_000}
    write_json(folder / "summary.json", {**summary, "dropped_rows": [], "data_rows": 900})
    write_json(folder / "timing.json", {"seconds": 21.3, "samples_per_second": 470, "peak_mb": 610})


def scored(score: float, count: int) -> dict[str, Any]:
    """A score with the questions' own interval."""
    low, high = max(0.0, score - 0.05), min(1.0, score + 0.05)
    return {"score": score, "n": count, "interval": [low, high]}


def make_evaluation(folder: Path, rng: random.Random, read: float, choose: float) -> None:
    """An evaluate stage's scores around `read` and `choose`, and its first answers."""
    read = min(1.0, max(0.0, read + rng.gauss(0, 0.03 if 0.2 < read < 1 else 0.0)))
    choose = min(1.0, max(0.0, choose + (rng.gauss(0, 0.02) if choose < 1 else 0.0)))
    seen = {
        "words seen": scored(min(1, read * 1.08), 175),
        "words never seen": scored(read * 0.8, 75),
    }
    kinds = {k: scored(choose, 50) for k in ("colour", "shape", "count", "position", "reading")}
    common = {"missing": 0, "unparsed": 0, "prompt_hash": "abc", "data_hash": "def"}
    textvqa = {**scored(read, 250), **common, "protocol": "textvqa", "groups": seen}
    mmbench = {**scored(choose, 250), **common, "vanilla": min(1.0, choose + 0.08), "groups": kinds}
    write_json(folder / "metrics.json", {"textvqa": textvqa, "mmbench": mmbench})
    write_jsonl(folder / "examples.jsonl", list(make_answers(folder, rng, read, choose)))


def make_answers(folder: Path, rng: random.Random, read: float, choose: float) -> Iterable[dict]:
    """Answers to twenty questions of each benchmark, pictures beside them."""
    for k in range(20):
        paint(folder / f"images/{k}.png", random.Random(k))
        right = [rng.random() < read, rng.random() < choose]
        yield {
            "benchmark": "textvqa",
            "id": str(k),
            "question": "What word is printed?",
            "answers": ["cat"] * 10,
            "prediction": "cat" if right[0] else "sun",
            "credit": float(right[0]),
            "image": str(folder / f"images/{k}.png"),
        }
        yield {
            "benchmark": "mmbench",
            "id": str(k),
            "question": "Which colour is the circle?",
            "options": {"A": "red", "B": "green", "C": "blue", "D": "yellow"},
            "answers": ["A"],
            "prediction": "A" if right[1] else "C",
            "credit": float(right[1]),
            "image": f"images/{k}.png",
        }


def make_run(
    folder: Path,
    *,
    arms: Sequence[str] = ("raw", "refined"),
    seeds: Sequence[int] = (0,),
    rows: int = 400,
    hostile: bool = False,
    note: str = "",
    evaluated: bool = True,
) -> Path:
    """A whole run folder; without `evaluated` it is one that only processes data."""
    rng = random.Random(7)
    graph = Graph(folder, rng)
    world = graph.add("world", "render")
    seed_rows, faults = make_world(world, rng, rows, 24, hostile)
    kept = make_filter_stage(graph.add("filter", "process", ["world"]), rng, seed_rows, faults)
    if "refined" in arms:
        make_training(graph.add("captioner", "train", ["world"]), rng, 3200, 4.2, 0.6)
        make_caption_stage(graph.add("refine", "process", ["filter", "captioner"]), rng, kept)
    for seed in seeds if evaluated else ():
        for arm in arms:
            read, choose = (1.0, 1.0) if note else SKILL.get(arm, (0.3, 0.5))
            end = {"raw": 1.4, "refined": 0.5}.get(arm, 1.0)
            make_training(graph.add("align", "train", ["filter"], arm, seed), rng, 3200, 4.0, end)
            make_training(graph.add("instruct", "train", [], arm, seed), rng, 1600, 2.5, 0.4)
            make_evaluation(
                graph.add("evaluate", "evaluate", ["world"], arm, seed), rng, read, choose
            )
    write_json(folder / "graph.json", {"nodes": graph.nodes})
    write_recipe(folder, arms, seeds, note, hostile)
    return folder


def write_recipe(
    folder: Path, arms: Sequence[str], seeds: Sequence[int], note: str, hostile: bool
) -> None:
    """`recipe.yaml` and `env.json`."""
    command = ["vlforge", "run", "recipes/quickstart.yaml", "--seeds", str(len(seeds))]
    write_json(folder / "env.json", {"python": "3.11.2", "cores": 2, "command": command})
    lines = [
        "name: quickstart",
        f"description: {json.dumps(HOSTILE[:60] if hostile else 'Does clean data help?')}",
        f"seeds: {list(seeds)}",
        "stages:",
        "  world: {kind: render}",
        "  filter: {kind: process, dataset_path: $world/seed.jsonl}",
        f"  evaluate: {{kind: evaluate, note: {json.dumps(note)}}}",
        "arms:",
        *(f"  {arm}: {{}}" for arm in arms),
    ]
    (folder / "recipe.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_run(Path(sys.argv[1]), arms=tuple(SKILL), seeds=(0, 1, 2))
