"""Counts of what was asked and answered, in the text format that Prometheus reads.

Source: Prometheus' text exposition format 0.0.4.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Of the buckets that seconds are counted in."""
_HELP = {
    "requests_total": "Requests by model and status; 499 are those whose client has left.",
    "tokens_total": "Tokens of prompts (in) and answers (out).",
    "request_seconds": "From a request's arrival to the end of its answer.",
    "first_token_seconds": "From a request's arrival to the first piece of its answer.",
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._seconds: dict[tuple[str, str], list[float]] = {}

    def asked(self, model: str, status: int) -> None:
        """A request of this outcome."""
        with self._lock:
            self._counts["requests_total", (("model", model), ("status", str(status)))] += 1

    def answered(
        self, model: str, tokens_in: int, tokens_out: int, first_s: float, whole_s: float
    ) -> None:
        """What an answer took."""
        with self._lock:
            for way, count in (("in", tokens_in), ("out", tokens_out)):
                self._counts["tokens_total", (("model", model), ("direction", way))] += count
            self._add("first_token_seconds", model, first_s)
            self._add("request_seconds", model, whole_s)

    def mean_s(self, model: str) -> float:
        """Seconds that an answer took on average, 0 where none was given."""
        with self._lock:
            row = self._seconds.get(("request_seconds", model))
        return row[-1] / row[-2] if row and row[-2] else 0.0

    def _add(self, name: str, model: str, seconds: float) -> None:
        row = self._seconds.setdefault((name, model), [0.0] * (len(BOUNDS) + 2))
        for place, bound in enumerate(BOUNDS):
            row[place] += seconds <= bound
        row[-2] += 1
        row[-1] += seconds

    def text(self, gauges: Iterable[tuple[str, str, str, float]] = ()) -> str:
        """All of them; `gauges` are (name, help, model, value) of this moment."""
        with self._lock:
            counts = sorted(self._counts.items())
            seconds = sorted((key, list(row)) for key, row in self._seconds.items())
        lines: list[str] = []
        headed: set[str] = set()

        def head(name: str, kind: str, told: str) -> None:
            if name not in headed:
                headed.add(name)
                lines.append(f"# HELP vlforge_{name} {told}")
                lines.append(f"# TYPE vlforge_{name} {kind}")

        for (name, labels), count in counts:
            head(name, "counter", _HELP[name])
            lines.append(f"vlforge_{name}{_labels(labels)} {count}")
        for (name, model), row in seconds:
            head(name, "histogram", _HELP[name])
            for bound, found in zip((*BOUNDS, "+Inf"), row[:-1], strict=True):
                labels = (("model", model), ("le", str(bound)))
                lines.append(f"vlforge_{name}_bucket{_labels(labels)} {found:g}")
            lines.append(f"vlforge_{name}_sum{_labels((('model', model),))} {row[-1]:.6f}")
            lines.append(f"vlforge_{name}_count{_labels((('model', model),))} {row[-2]:g}")
        for name, told, model, value in sorted(gauges):
            head(name, "gauge", told)
            labels = (("model", model),) if model else ()
            lines.append(f"vlforge_{name}{_labels(labels)} {value:g}")
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{shown}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
