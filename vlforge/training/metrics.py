"""`metrics.jsonl`: one line per optimiser step, without times, so that runs compare."""

from __future__ import annotations

import json
import os
from pathlib import Path

from vlforge.training.checkpoint import is_full

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
        draft = self.path.with_name(f".{NAME}.draft")
        draft.write_text("".join(f"{line}\n" for line in kept))
        draft.replace(self.path)

    def add(self, fields: dict[str, float | int]) -> None:
        """Add the line of one step."""
        self.lines.append(json.dumps(fields))
        if len(self.lines) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Bring to the disk what is held back; where that is full it is held on to."""
        try:
            self._write()
        except OSError as error:
            if not is_full(error):
                raise

    def losses(self) -> list[float]:
        """The losses of all lines, oldest first."""
        self._write()
        return [json.loads(line)["loss"] for line in self.path.read_text().splitlines()]

    def _write(self) -> None:
        """All lines or none: half of one would stand before the next try's."""
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
