"""`metrics.jsonl`: one line per optimiser step, without times, so that runs compare."""

from __future__ import annotations

import json
from pathlib import Path

NAME = "metrics.jsonl"
FLUSH_EVERY = 50


class Metrics:
    """Append lines; a resumed run first cuts the file back to its checkpoint."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / NAME
        self.lines: list[str] = []
        kept = []
        if step and self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
        self.path.write_text("".join(f"{line}\n" for line in kept))

    def add(self, fields: dict[str, float | int]) -> None:
        """Add the line of one step."""
        self.lines.append(json.dumps(fields))
        if len(self.lines) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        with self.path.open("a") as file:
            file.writelines(f"{line}\n" for line in self.lines)
        self.lines = []

    def losses(self) -> list[float]:
        """The losses of all lines, oldest first."""
        self.flush()
        return [json.loads(line)["loss"] for line in self.path.read_text().splitlines()]


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
