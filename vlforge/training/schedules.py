"""Learning rates by step: factors that the base rate is multiplied with.

The names are transformers' and mean the same (the first step of a warmup has rate 0),
with a floor `min_lr` and a start of warmup `warmup_lr` where they are given. Others:

- `one_cycle`: torch's OneCycleLR with cosine arms, start 1/25 and end 1/250000 of the
  peak, momentum left alone.
- `xtuner`: mmengine's LinearLR from 1e-5 of the rate, which reaches it with the last
  step of warmup, then a cosine that starts over there.
- `lavis`: linear_warmup_cosine_lr as it is: warmup counts the step within its epoch, and
  the cosine counts from the run's first step, so that the rate falls where the two meet,
  and a warmup longer than an epoch saws. It knows `warmup_steps`, no ratio. `cosine` with
  `warmup_lr` and `min_lr` is what it means to be.
- `paddle_cosine`, `paddle_linear`: transformers' with the steps of warmup rounded down.
  Paddle logs the rate of the step to come; ours is that of the step taken.

`lavis` and `xtuner` count forward passes: of several that make one optimiser step, the
last one's rate is the step's.

Sources: transformers optimization.py, mmengine 0.10.7 param_scheduler.py, MiniGPT-4@22d8888
optims.py, paddlenlp 2.8.1 trainer.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vlforge.training.config import Optimiser
from vlforge.types import RecipeError

ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1 / 25 / 1e4
XTUNER_START = 1e-5
POLYNOMIAL_END = 1e-7
"""What transformers lets a polynomial end at, as a rate."""
INVERSE_SQRT_STEPS = 10_000
"""Its time scale where there is no warmup."""


def warmup_steps(steps: int, warmup_ratio: float) -> int:
    """Steps of warmup, rounded up as transformers does."""
    return math.ceil(steps * warmup_ratio)


def lr_factor(schedule: str, step: int, steps: int, warmup_ratio: float) -> float:
    """Factor for the optimiser step `step` (from 0) of `steps`, all else by default.

    Raises:
        RecipeError: an unknown schedule.
    """
    settings = Optimiser(lr=1.0, schedule=schedule, warmup_ratio=warmup_ratio)  # type: ignore[arg-type]
    return Schedule(settings, steps).factor(step)


@dataclass(frozen=True)
class Schedule:
    """The factors of a run of `steps` optimiser steps.

    epoch: optimiser steps of an epoch, which `lavis` counts in (0: the run is one).
    passes: forward passes that make a step, for `lavis` and `xtuner`.

    Raises:
        RecipeError: an unknown schedule, or rates that make no sense.
    """

    settings: Optimiser
    steps: int
    epoch: int = 0
    passes: int = 1

    def __post_init__(self) -> None:
        name = self.settings.schedule
        if name not in _CURVES:
            raise RecipeError(f"schedule {name!r} is unknown; known: {', '.join(_CURVES)}")
        if self.settings.warmup_steps < 0 or not 0 <= self.settings.warmup_ratio <= 1:
            raise RecipeError(
                f"warmup_steps {self.settings.warmup_steps} and warmup_ratio "
                f"{self.settings.warmup_ratio:g}: give steps from 0 and a ratio from 0 to 1"
            )

    @property
    def warmup(self) -> int:
        """Steps of warmup (forward passes where the schedule counts those)."""
        settings = self.settings
        if settings.warmup_steps > 0 or settings.schedule == "lavis":
            return settings.warmup_steps
        if settings.schedule == "xtuner" or settings.schedule.startswith("paddle"):
            return int(settings.warmup_ratio * self.length)
        return warmup_steps(self.length, settings.warmup_ratio)

    @property
    def length(self) -> int:
        """Steps of the run (forward passes where the schedule counts those)."""
        return self.steps * (self.passes if self._counts_passes else 1)

    @property
    def floor(self) -> float:
        """Where the schedule ends, as a factor."""
        lowest = self.settings.min_lr
        if lowest == "auto":
            lowest = POLYNOMIAL_END if self.settings.schedule == "polynomial" else 0.0
        return self._share(lowest)

    @property
    def start(self) -> float:
        """Where warmup begins, as a factor; a rate below 0 is `lr`, as in LAVIS."""
        return 1.0 if self.settings.warmup_lr < 0 else self._share(self.settings.warmup_lr)

    @property
    def _counts_passes(self) -> bool:
        return self.settings.schedule in ("lavis", "xtuner")

    def _share(self, rate: float) -> float:
        return rate / self.settings.lr if self.settings.lr else 0.0

    def factor(self, step: int) -> float:
        """Factor for the optimiser step `step`, from 0."""
        place = (step + 1) * self.passes - 1 if self._counts_passes else step
        return _CURVES[self.settings.schedule](self, place)

    def cycles(self, usual: float) -> float:
        """Waves of a cosine."""
        given = self.settings.cycles
        return usual if given == "auto" else given

    def warming(self, step: int) -> float | None:
        """The factor within warmup; None behind it."""
        if step >= self.warmup:
            return None
        return self.start + (1.0 - self.start) * (step / max(1, self.warmup))

    def done(self, step: int) -> float:
        """The share of the steps behind warmup that is over."""
        return (step - self.warmup) / max(1, self.length - self.warmup)

    def above_floor(self, share: float) -> float:
        """0 is the floor and 1 the base rate."""
        return self.floor + (1.0 - self.floor) * max(0.0, share)


def _cosine(run: Schedule, step: int) -> float:
    if (warm := run.warming(step)) is not None:
        return warm
    return run.above_floor(0.5 * (1.0 + math.cos(math.pi * run.cycles(0.5) * 2.0 * run.done(step))))


def _restarts(run: Schedule, step: int) -> float:
    if (warm := run.warming(step)) is not None:
        return warm
    if (done := run.done(step)) >= 1.0:
        return run.floor
    return run.above_floor(0.5 * (1.0 + math.cos(math.pi * (run.cycles(1.0) * done % 1.0))))


def _linear(run: Schedule, step: int) -> float:
    if (warm := run.warming(step)) is not None:
        return warm
    return run.above_floor(1.0 - run.done(step))


def _polynomial(run: Schedule, step: int) -> float:
    if (warm := run.warming(step)) is not None:
        return warm
    return run.above_floor(max(0.0, 1.0 - run.done(step)) ** run.settings.power)


def _constant(run: Schedule, step: int) -> float:
    return 1.0


def _constant_with_warmup(run: Schedule, step: int) -> float:
    warm = run.warming(step)
    return 1.0 if warm is None else warm


def _inverse_sqrt(run: Schedule, step: int) -> float:
    if (warm := run.warming(step)) is not None:
        return warm
    scale = run.warmup or INVERSE_SQRT_STEPS
    return 1.0 / math.sqrt((step + scale - run.warmup) / scale)


def _stable_decay(run: Schedule, step: int) -> float:
    if (warm := run.warming(step)) is not None:
        return warm
    fall = max(1, math.ceil(run.length * run.settings.decay_ratio))
    over = step - (run.length - fall)
    if over < 0:
        return 1.0
    return run.above_floor(0.5 * (1.0 + math.cos(math.pi * over / fall)))


def _lavis(run: Schedule, step: int) -> float:
    epoch = (run.epoch or run.steps) * run.passes
    if step < run.warmup:
        rise = run.start + (1.0 - run.start) * (step % epoch) / max(run.warmup, 1)
        return min(1.0, rise)
    wave = 0.5 * (1.0 + math.cos(math.pi * step / run.length))
    return (1.0 - run.floor) * wave + run.floor


def _xtuner(run: Schedule, step: int) -> float:
    if step < run.warmup:
        return XTUNER_START + (1.0 - XTUNER_START) * step / max(1, run.warmup - 1)
    return run.above_floor(0.5 * (1.0 + math.cos(math.pi * run.done(step))))


def _one_cycle(run: Schedule, step: int) -> float:
    settings = run.settings
    warmup = settings.warmup_steps or settings.warmup_ratio * run.steps
    peak = warmup - 1
    if step <= peak:
        return _cosine_arm(ONE_CYCLE_START, 1.0, step / peak if peak else 1.0)
    rest = run.steps - 1 - peak
    return _cosine_arm(1.0, ONE_CYCLE_END, (step - peak) / rest if rest else 1.0)


def _cosine_arm(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))


_CURVES = {
    "cosine": _cosine,
    "cosine_with_min_lr": _cosine,
    "cosine_with_restarts": _restarts,
    "linear": _linear,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "inverse_sqrt": _inverse_sqrt,
    "warmup_stable_decay": _stable_decay,
    "one_cycle": _one_cycle,
    "lavis": _lavis,
    "xtuner": _xtuner,
    "paddle_cosine": _cosine,
    "paddle_linear": _linear,
}
