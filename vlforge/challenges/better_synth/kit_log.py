"""What the kit's trainer prints: how far it is, what a step says, whether a stage ended."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = ("pretrain", "finetune", "textvqa", "mmbench")
"""The parts of the kit's script that take time, in order."""
LOGS = {"pretrain": "pretrain.log", "finetune": "finetuning.log"}
_BAR = re.compile(r"(\d+)/(\d+) \[([\d:]+)<([\d:?]+),\s*([\d.?]+\s*(?:s/it|it/s))")
_FIELDS = re.compile(r"\{'[^{}]*\}")
_ASKING = {"Infer on TextVQA": "textvqa", "Infer on MMBench": "mmbench"}
_WIDTH = 240
_TRACE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*|^\[ERROR\].*")


@dataclass
class KitLog:
    """Follows the lines of a run; `part` is what it is at, `error` the first that was told."""

    part: str = "pretrain"
    done: int = 0
    total: int | None = None
    left: str = ""
    loss: str = ""
    error: str = ""

    def take(self, line: str) -> str | None:
        """One line or one state of a bar; the name of a part that has just ended."""
        asking = next((part for words, part in _ASKING.items() if words in line), self.part)
        if _TRACE.match(line.strip()):
            # What follows a first error is mostly its consequence.
            self.error = self.error or line.strip()
        bar = None if "Loading" in line else _BAR.search(line)
        if bar:
            self.done, self.total, self.left = int(bar[1]), int(bar[2]), bar[4]
        fields = fields_in(line)
        if "loss" in fields:
            self.loss = f"loss {float(fields['loss']):.3f}"
        if "train_runtime" in fields:
            asking = PARTS[min(PARTS.index(self.part) + 1, len(PARTS) - 1)]
        if asking == self.part:
            return None
        ended, self.part = self.part, asking
        self.done, self.total, self.left, self.loss = 0, None, "", ""
        return ended

    @property
    def note(self) -> str:
        """The last loss and the time that is left by the trainer's own bar."""
        left = f"{self.left} left" if self.left and "?" not in self.left else ""
        return ", ".join(filter(None, (self.loss, left)))


def fields_in(line: str) -> dict[str, Any]:
    """The fields of a step's line, `{'loss': …}`; none where it has none."""
    found = _FIELDS.search(line)
    if not found:
        return {}
    try:
        value = ast.literal_eval(found[0])
    except (ValueError, SyntaxError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class StageLog:
    """What a stage's log tells: its steps' losses, and how it ended; `runtime_s` 0 if it did not"""

    losses: tuple[float, ...]
    runtime_s: float
    train_loss: float | None


def read_stage_log(path: Path) -> StageLog:
    """A `pretrain.log` or `finetuning.log`; bars and other lines are passed over."""
    losses, runtime, mean = [], 0.0, None
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in re.split(r"[\r\n]", text):
        fields = fields_in(line)
        if "train_runtime" in fields:
            runtime = float(fields["train_runtime"])
            mean = float(fields["train_loss"]) if "train_loss" in fields else None
        elif "loss" in fields:
            losses.append(float(fields["loss"]))
    return StageLog(tuple(losses), runtime, mean)


def tail(path: Path, lines: int = 12) -> list[str]:
    """The last lines of a log, long ones cut, a bar's states counted as one."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    whole = [part.rsplit("\r", 1)[-1].rstrip() for part in text.split("\n")]
    last = [line for line in whole if line.strip()][-lines:]
    return [f"{line[:_WIDTH]} …" if len(line) > _WIDTH else line for line in last]
