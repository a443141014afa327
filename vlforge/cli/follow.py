"""The command that makes sense after a run: talk with the model it trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlforge.cli.show import shown_path


def next_command(run_dir: Path) -> str | None:
    """`vlforge chat MODEL --image PICTURE` for the run's last model; None without one.

    The picture is one that the run's own questions were about.
    """
    nodes = _read_nodes(run_dir / "graph.json")
    models = [node for node in nodes if node["kind"] == "train"]
    if not models:
        return None
    words = ["vlforge", "chat", shown_path(run_dir / models[-1]["folder"])]
    picture = _picture(run_dir, nodes)
    if picture is not None:
        words += ["--image", shown_path(picture)]
    return shlex.join(words)


def _read_nodes(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    nodes: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    return nodes


def _picture(run_dir: Path, nodes: list[Mapping[str, Any]]) -> Path | None:
    """The first picture of the examples that an evaluation kept."""
    for node in nodes:
        examples = run_dir / node["folder"] / "examples.jsonl"
        if node["kind"] != "evaluate" or not examples.is_file():
            continue
        for line in examples.read_text(encoding="utf-8").splitlines():
            image = json.loads(line).get("image")
            if image and Path(image).is_file():
                return Path(image)
    return None
