"""Bounds of filters: which settings they are, what lies beyond them, which would fit the data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vlforge.ops.base import Filter
from vlforge.ops.bind import Bound
from vlforge.reports.analysis_columns import Numbers
from vlforge.types import RecipeError

TAIL = 0.01
"""Share of the values at each end that lies beyond the quantile bounds."""
SIGMAS = 3
Keys = tuple[str | None, str | None]
"""The settings that say a statistic's lower and upper bound."""


@dataclass(frozen=True)
class Interval:
    """What a filter keeps of one statistic; None: open."""

    low: float | None = None
    high: float | None = None
    is_reversed: bool = False
    closed_low: bool = True
    closed_high: bool = True

    @property
    def pair(self) -> tuple[float | None, float | None]:
        """Both ends."""
        return self.low, self.high

    def ranks(self, numbers: Numbers) -> tuple[int, int]:
        """The first number between the ends, in order, and the first one after."""
        first, last = 0, numbers.count
        # Reversed, a closed end is among what is kept, so not between.
        if self.low is not None:
            first = numbers.below(self.low, inclusive=self.closed_low == self.is_reversed)
        if self.high is not None:
            last = numbers.below(self.high, inclusive=self.closed_high != self.is_reversed)
        return first, max(first, last)


@dataclass(frozen=True)
class Suggestion:
    """Bounds for one statistic of one filter, with the share of the values beyond them."""

    bound: Bound
    stat: str
    keys: Keys
    low: float
    high: float
    beyond: float


@dataclass(frozen=True)
class Rule:
    """A way of finding bounds, what it found, and the filters with it as part of a recipe."""

    name: str
    why: str
    found: tuple[Suggestion, ...] = field(default=())
    snippet: str = ""


def interval_of(op: Any, stat: str) -> Interval:
    """What the filter keeps of a statistic; stand-ins for infinity count as open."""
    pairs = dict(zip(op.stats, op.bounds(), strict=False))
    low, high = (_finite(end) for end in pairs.get(stat, (None, None)))
    return Interval(low, high, op.reversed_range, op.min_closed_interval, op.max_closed_interval)


def beyond(numbers: Numbers, interval: Interval) -> tuple[int, int]:
    """How many numbers lie below and above; where the range is reversed, (how many inside, 0)."""
    first, last = interval.ranks(numbers)
    return (last - first, 0) if interval.is_reversed else (first, numbers.count - last)


def bound_keys(op: Filter) -> dict[str, Keys]:
    """For each statistic the settings that bound it: those whose change changes `bounds()`."""
    before = op.bounds()
    keys: dict[str, list[str | None]] = {stat: [None, None] for stat in op.stats}
    for name in (f.name for f in fields(op) if f.name.startswith(("min", "max"))):
        for stat, side in _moved(op, name, before):
            keys[stat][side] = name
    return {stat: (pair[0], pair[1]) for stat, pair in keys.items()}


def suggest(bounds: Sequence[Bound], numbers: Mapping[str, Numbers]) -> tuple[Rule, ...]:
    """Bounds by both rules for every statistic that settings can bound."""
    sigma = f"mean ± {SIGMAS} standard deviations, as Data-Juicer's search for settings takes them"
    tails = f"all but {TAIL:.0%} of the values at each end; outliers do not stretch them"
    return (
        _rule("quantiles", tails, bounds, numbers, _by_quantiles),
        _rule(f"{SIGMAS} sigma", sigma, bounds, numbers, _by_sigmas),
    )


def _rule(
    name: str, why: str, bounds: Sequence[Bound], numbers: Mapping[str, Numbers], ends: Any
) -> Rule:
    found = [
        _suggestion(bound, stat, keys, numbers[stat], *ends(numbers[stat]))
        for bound in bounds
        if isinstance(bound.op, Filter) and not bound.op.reversed_range
        for stat, keys in bound_keys(bound.op).items()
        if any(keys) and stat in numbers
    ]
    return Rule(name, why, tuple(found), _snippet(found))


def _by_quantiles(numbers: Numbers) -> tuple[float, float]:
    return numbers.quantile(TAIL), numbers.quantile(1 - TAIL)


def _by_sigmas(numbers: Numbers) -> tuple[float, float]:
    reach = SIGMAS * (numbers.std or 0.0)
    return numbers.mean - reach, numbers.mean + reach


def _suggestion(
    bound: Bound, stat: str, keys: Keys, numbers: Numbers, low: float, high: float
) -> Suggestion:
    """Ends inside the data, rounded outwards to what a person would write."""
    low, high = max(low, numbers.low), min(high, numbers.high)
    is_whole = [key is not None and _is_whole(bound.op, key) for key in keys]
    low = _outwards(low, is_whole[0], math.floor)
    high = _outwards(high, is_whole[1], math.ceil)
    out = 0
    if keys[0] is not None:
        out += numbers.below(low, inclusive=False)
    if keys[1] is not None:
        out += numbers.count - numbers.below(high, inclusive=True)
    return Suggestion(bound, stat, keys, low, high, out / numbers.count)


def _outwards(value: float, is_whole: bool, rounded: Any) -> float:
    """Three significant figures; a whole number where the setting is one."""
    if value == 0 or not math.isfinite(value):
        return 0.0 if value == 0 else value
    places = 2 - math.floor(math.log10(abs(value)))
    if is_whole and places > 0:
        places = 0
    if places > 0:
        return float(rounded(round(value * 10**places, 6)) / 10**places)
    step = 10 ** min(-places, 0 if is_whole and abs(value) < 10_000 else -places)
    return float(rounded(value / step) * step)


def _is_whole(op: Any, key: str) -> bool:
    """Whether a setting is a whole number; sizes such as "10kb" are bytes."""
    kind = str(next(f.type for f in fields(op) if f.name == key))
    return "int" in kind and ("float" not in kind or "str" in kind)


def _snippet(found: Iterable[Suggestion]) -> str:
    by_place: dict[int, tuple[Bound, dict[str, Any]]] = {}
    for one in found:
        bound, settings = by_place.setdefault(one.bound.place, (one.bound, dict(one.bound.params)))
        for key, value in zip(one.keys, (one.low, one.high), strict=True):
            if key is not None:
                settings[key] = int(value) if float(value).is_integer() else value
    lines = []
    for bound, settings in by_place.values():
        lines.append(f"  - {bound.name}:")
        keys = [f.name for f in fields(bound.op) if f.name in settings]
        lines += [f"      {key}: {_yaml(settings[key])}" for key in keys]
    return "\n".join(["process:", *lines]) if lines else ""


def _yaml(value: Any) -> str:
    """A value as YAML; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _moved(op: Filter, name: str, before: Sequence[Any]) -> list[tuple[str, int]]:
    """The ends of statistics that move when a setting does."""
    for value in (3, 0.1234, 77):
        changed = _with(op, name, value)
        after = changed.bounds() if changed is not None else before
        moved = [
            (stat, side)
            for stat, old, new in zip(op.stats, before, after, strict=False)
            for side in (0, 1)
            if old[side] != new[side]
        ]
        if moved:
            return moved
    return []


def _with(op: Filter, name: str, value: Any) -> Filter | None:
    try:
        changed = replace(op, **{name: value})
        changed.bounds()
    except (TypeError, ValueError, RecipeError):
        return None
    return changed


def _finite(end: Any) -> float | None:
    is_number = isinstance(end, int | float) and not isinstance(end, bool)
    return float(end) if is_number and abs(end) < 2**62 else None
