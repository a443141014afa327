"""What a run is doing, from its `log.jsonl`: one line per stage that trains or has trained."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.reports import numbers
from vlforge.types import DataError

LOG = "log.jsonl"
WIDTH = 24
"""Signs of a curve."""
_SIGNS = "▁▂▃▄▅▆▇█"


@dataclass
class Seen:
    """One stage as far as its log tells."""

    node: str
    state: str = ""
    last: Mapping[str, Any] = field(default_factory=dict)
    held_out: float | None = None
    losses: dict[int, float] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """One more event."""
        kind = event.get("event")
        if kind == "fit":
            begun = int(event.get("from_step") or 0)
            self.losses = {step: loss for step, loss in self.losses.items() if step <= begun}
            self.state = f"goes on after step {begun:,}" if begun else ""
        elif kind == "step":
            self.last, self.state = event, ""
            if event.get("loss") is not None:
                self.losses[int(event["step"])] = float(event["loss"])
        elif kind == "looked":
            self.held_out = event.get("eval_loss", self.held_out)
        elif kind == "done":
            self.state = f"done in {numbers.seconds(event.get('seconds'))}"
        elif kind == "failed":
            self.state = f"failed: {event.get('error')}"

    def line(self, is_running: bool = True) -> str:
        """`align.s0  3,200 of 60,000  ▇▅▃▂  loss 1.28  55.1 samples/s …`."""
        state = self.state or ("" if is_running else "not running now")
        if not self.last:
            return f"{self.node}  {state or 'beginning'}"
        last = self.last
        parts = [
            self.node,
            f"{numbers.count(last.get('samples'))} of {numbers.count(last.get('of'))}",
            curve(list(self.losses.values()), WIDTH),
            f"loss {numbers.figures(last.get('loss'))}",
        ]
        if self.held_out is not None:
            parts.append(f"held-out {numbers.figures(self.held_out)}")
        if state:
            return "  ".join([*parts, state])
        parts.append(f"{numbers.figures(last.get('samples_per_second'))} samples/s")
        parts += [f"mfu {last['mfu']:.0%}"] if "mfu" in last else []
        parts.append(f"wait {last.get('wait_share', 0.0):.0%}")
        return "  ".join([*parts, f"left {numbers.seconds(last.get('eta_s'))}"])


class Following:
    """Reads what a run's log has grown by.

    Raises:
        DataError: no run there.
    """

    def __init__(self, run: Path):
        self.path, self._lock = run / LOG, run / ".lock"
        if not self._lock.exists() and not self.path.exists():
            raise DataError(f"{run}: no run here; give the folder of one, such as runs/quickstart")
        self.nodes: dict[str, Seen] = {}
        self._at = 0

    def read(self) -> bool:
        """Take what is new; whether anything was. A line that is half written waits."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for event in _events(whole):
            name = str(event.get("node"))
            if event.get("event") in ("fit", "step", "looked"):
                self.nodes.setdefault(name, Seen(name))
            if name in self.nodes:
                self.nodes[name].take(event)
        return bool(whole)

    def is_running(self) -> bool:
        """Whether a command holds the run's folder."""
        try:
            with self._lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def lines(self) -> list[str]:
        """A line per stage that trained, oldest first."""
        is_running = self.is_running()
        if not is_running:
            self.read()  # It may have said its last words and ended since it was read.
        return [seen.line(is_running) for seen in self.nodes.values()]


def curve(values: list[float], width: int) -> str:
    """A curve of at most `width` signs, each the mean of some values; from 0 to the largest."""
    if not values:
        return ""
    step = -(-len(values) // width)
    means = [
        sum(some) / len(some)
        for some in (values[k : k + step] for k in range(0, len(values), step))
    ]
    top = max(means) or 1.0
    return "".join(_SIGNS[min(7, max(0, int(8 * mean / top)))] for mean in means)


def _events(data: bytes) -> Iterator[Mapping[str, Any]]:
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, Mapping):
            yield event
