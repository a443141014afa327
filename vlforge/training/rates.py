"""How fast a stage trains: over its last steps, so that no start and no resume blurs it.

What counts as waiting is the time in which the loop has no batch. Evaluation is left out of
all rates.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WINDOW = 50
"""Steps that a rate is over."""


@dataclass(frozen=True)
class Rate:
    """The last steps; None where it cannot be told."""

    samples_per_second: float
    tokens_per_second: float
    wait_share: float
    mfu: float | None

    def fields(self) -> dict[str, float]:
        """Rounded, for files and trackers."""
        found = {
            "samples_per_second": round(self.samples_per_second, 2),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "wait_share": round(self.wait_share, 4),
        }
        return found | ({} if self.mfu is None else {"mfu": round(self.mfu, 4)})


@dataclass(frozen=True)
class _Mark:
    """Totals at the end of a step."""

    at_s: float
    samples: int = 0
    tokens: int = 0
    flops: float = 0.0
    waited_s: float = 0.0


class Rates:
    """Takes steps as they end.

    Args:
        peak_flops: a second, of all devices together; None or 0 gives no MFU.
    """

    def __init__(
        self,
        peak_flops: float | None = None,
        window: int = WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._peak, self._clock = peak_flops, clock
        self._aside_s = self._waited_s = 0.0
        self._marks: deque[_Mark] = deque(maxlen=window + 1)
        self._first = self._last = _Mark(self._now())
        self._marks.append(self._first)

    def _now(self) -> float:
        return self._clock() - self._aside_s

    def waited(self, seconds: float) -> None:
        """A batch was waited for."""
        self._waited_s += seconds

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around work that is no training."""
        start = self._clock()
        yield
        self._aside_s += self._clock() - start

    def add(self, samples: int, tokens: int, flops: float = 0.0) -> None:
        """One step has ended; what all devices together saw in it."""
        last = self._last
        self._last = _Mark(
            self._now(),
            last.samples + samples,
            last.tokens + tokens,
            last.flops + flops,
            self._waited_s,
        )
        self._marks.append(self._last)

    def now(self) -> Rate:
        """Over the window."""
        return self._between(self._marks[0])

    def whole(self) -> Rate:
        """Over all steps of this process."""
        return self._between(self._first)

    def _between(self, first: _Mark) -> Rate:
        last = self._last
        spent = max(last.at_s - first.at_s, 1e-9)
        flops = last.flops - first.flops
        return Rate(
            samples_per_second=(last.samples - first.samples) / spent,
            tokens_per_second=(last.tokens - first.tokens) / spent,
            wait_share=min(1.0, (last.waited_s - first.waited_s) / spent),
            mfu=flops / spent / self._peak if self._peak and flops else None,
        )


def peak_memory_mb() -> float:
    """Most memory this process held, on the GPU if it used one, in MiB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
