"""Small made datasets and recipes for the engine's tests."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from vlforge.engine.config import ProcessConfig

NAMES = ("data.jsonl", "stats.jsonl", "dropped.jsonl", "changed.jsonl")


def text_rows(count: int) -> list[dict[str, Any]]:
    """Rows of which some are short, repeated, odd or linked."""
    rows = []
    for number in range(count):
        text = f"row {number} tells of the river bank near house {number * 7919 % 1000}"
        if number % 7 == 3:
            text = "short"
        if number % 11 == 5:
            text = f"the same words again {number % 33}"
        if number % 13 == 2:
            text += " see www.example.org/page for more"
        rows.append({"id": f"r{number}", "text": text, "score": number % 17})
    return rows


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON lines; strings as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_picture(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """A picture that differs with its seed."""
    image = Image.effect_mandelbrot(size, (-2 - seed / 9, -1, 1, 1 + seed / 7), 20)
    image.convert("RGB").save(path)
    return path


def config(path: Path, *process: Any, **keys: Any) -> ProcessConfig:
    """A recipe; an operator is its name or `{name: parameters}`."""
    entries = tuple(p if isinstance(p, dict) else {p: None} for p in process)
    return ProcessConfig(dataset_path=str(path), process=entries, **keys)


def lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """What a stage wrote, times and memory apart."""
    found = {name: (folder / name).read_bytes() for name in NAMES}
    funnel = json.loads((folder / "funnel.json").read_text())
    for entry in [funnel, *funnel["ops"]]:
        entry.pop("seconds", None)
        entry.pop("peak_mb", None)
    return {**found, "funnel.json": json.dumps(funnel).encode()}


FRESH = """
import json, resource, sys
from pathlib import Path
from vlforge.engine.config import ProcessConfig
from vlforge.engine.local import run_process
from vlforge.types import VLForgeError
told = json.loads(sys.argv[1])
if told["file_bytes"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (told["file_bytes"], told["file_bytes"]))
recipe = ProcessConfig(**{**told["config"], "process": tuple(told["config"]["process"])})
try:
    run_process(recipe, Path(told["out"]), workers=told["workers"])
except VLForgeError as error:
    print(error)
    sys.exit(2)
print("heavy:", *sorted({"torch", "PIL", "transformers"} & set(sys.modules)))
"""


def fresh(recipe: ProcessConfig, out: Path, *, workers: int = 1, file_bytes: int = 0) -> list[str]:
    """The command that runs a recipe in an interpreter of its own.

    Workers are forked there as in real life: this process may have torch loaded.
    `file_bytes` bounds the size of files, as a full disk does.
    """
    told = {"config": asdict(recipe), "out": str(out), "workers": workers, "file_bytes": file_bytes}
    return [sys.executable, "-c", FRESH, json.dumps(told)]
