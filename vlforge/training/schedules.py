"""Learning rates by step: factors that the base rate is multiplied with.

`cosine`, `linear` and `constant` are transformers' schedules with warmup (the
first step of a warmup has rate 0); `one_cycle` is torch's OneCycleLR with
cosine arms, start 1/25 and end 1/250000 of the peak, momentum left alone.
"""

from __future__ import annotations

import math

from vlforge.types import RecipeError

ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1 / 25 / 1e4


def warmup_steps(steps: int, warmup_ratio: float) -> int:
    """Steps of warmup, rounded up as transformers does."""
    return math.ceil(steps * warmup_ratio)


def lr_factor(schedule: str, step: int, steps: int, warmup_ratio: float) -> float:
    """Factor for the optimiser step `step` (from 0) of `steps`.

    Raises:
        RecipeError: an unknown schedule.
    """
    if schedule == "one_cycle":
        return _one_cycle(step, steps, warmup_ratio)
    if schedule not in ("cosine", "linear", "constant"):
        raise RecipeError(f"schedule {schedule!r} is unknown; take cosine, linear or constant")
    warmup = warmup_steps(steps, warmup_ratio)
    if step < warmup:
        return step / max(1, warmup)
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return max(0.0, 1.0 - done) if schedule == "linear" else 1.0


def _one_cycle(step: int, steps: int, warmup_ratio: float) -> float:
    peak = warmup_ratio * steps - 1
    if step <= peak:
        return _cosine_arm(ONE_CYCLE_START, 1.0, step / peak if peak else 1.0)
    rest = steps - 1 - peak
    return _cosine_arm(1.0, ONE_CYCLE_END, (step - peak) / rest if rest else 1.0)


def _cosine_arm(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))
