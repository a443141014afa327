"""Files with a line per step: `metrics.jsonl`, and what else is seen while a stage trains.

They hold no times, so that runs compare byte by byte.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vlforge.training.checkpoint import is_full

NAME = "metrics.jsonl"
EVALS = "eval.jsonl"
SPIKES = "spikes.jsonl"
FLUSH_EVERY = 50


class Metrics:
    """Append lines; a resumed run first cuts the file back to its checkpoint.

    Files other than `metrics.jsonl` are made by their first line.
    """

    def __init__(self, folder: Path, step: int, name: str = NAME, flush_every: int = FLUSH_EVERY):
        self.path = folder / name
        self.flush_every = flush_every
        self.lines: list[str] = []
        kept = []
        if step and self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
        if not kept and name != NAME:
            self.path.unlink(missing_ok=True)
            return
        draft = self.path.with_name(f".{name}.draft")
        draft.write_text("".join(f"{line}\n" for line in kept))
        draft.replace(self.path)

    def add(self, fields: dict[str, Any]) -> None:
        """Add the line of one step."""
        self.lines.append(json.dumps(fields))
        if len(self.lines) >= self.flush_every:
            self.flush()

    def flush(self) -> None:
        """Bring to the disk what is held back; where that is full it is held on to."""
        try:
            self._write()
        except OSError as error:
            if not is_full(error):
                raise

    def read(self) -> list[dict[str, Any]]:
        """All lines, oldest first."""
        self._write()
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def losses(self) -> list[float]:
        """The losses of all steps that were learned from, oldest first."""
        return [line["loss"] for line in self.read() if "skipped" not in line]

    def _write(self) -> None:
        """All lines or none: half of one would stand before the next try's."""
        if not self.lines:
            return
        text = "".join(f"{line}\n" for line in self.lines).encode()
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(text) != len(text):
                    file.write(text[file.tell() - before :])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        self.lines = []


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
