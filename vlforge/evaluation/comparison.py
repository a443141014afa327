"""Whether two sets of answers to the same questions differ: paired, and by pictures.

Pure statistics over credits; `pairing` reads them. Questions on one picture are one draw of
the bootstrap; McNemar's test counts questions, as everybody reports it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vlforge.evaluation.metrics.intervals import interval_of, wilson

EXACT_BELOW = 25
"""Questions that changed sides below which McNemar's test is the exact binomial one."""
FEW = 10
"""Pictures below which a bootstrap interval is not to be leant on."""


@dataclass(frozen=True)
class Difference:
    """Mean credit of B minus that of A over the same `n` questions.

    interval: 95 %, by a paired bootstrap over `clusters` pictures, its seed fixed.
    """

    n: int
    clusters: int
    a: float
    b: float
    interval: tuple[float, float]

    @property
    def value(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def outcome(self) -> Literal["above", "below", "open"]:
        """Where the whole interval lies: B above A, below it, or not told apart."""
        low, high = self.interval
        return "above" if low > 0 else "below" if high < 0 else "open"


@dataclass(frozen=True)
class McNemar:
    """Questions that only one of two got right, and how surprising that split is.

    p: two-sided, of the hypothesis that either side is as likely.
    """

    only_a: int
    only_b: int
    p: float
    method: Literal["exact", "chi-square"]


def paired(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable]) -> Difference:
    """The difference of two lists of credits, question by question.

    Equal differences everywhere tell a bootstrap nothing: their interval reaches as far as
    that share of pictures which Wilson's interval cannot rule out, at the worst credits.

    Raises:
        ValueError: no questions, or lists of unequal length.
    """
    if not a:
        raise ValueError("no questions to compare")
    gaps = [y - x for x, y in zip(a, b, strict=True)]
    count = len(set(clusters))
    if max(gaps) - min(gaps) < 1e-12 or count == 1:
        gap, top = math.fsum(gaps) / len(gaps), max(1.0, *a, *b)
        unseen = wilson(0, count)[1]
        interval = (gap - unseen * (top + gap), gap + unseen * (top - gap))
    else:
        rows = [(gap, 1.0) for gap in gaps]
        interval = interval_of(lambda sums: sums[:, 0] / sums[:, 1], rows, clusters)
    return Difference(len(gaps), count, _mean(a), _mean(b), interval)


def mcnemar(a: Sequence[float], b: Sequence[float]) -> McNemar | None:
    """McNemar's test of credits that are 0 or 1; None where one is neither.

    Exact binomial for fewer than `EXACT_BELOW` changed questions, else chi-square with
    Edwards' continuity correction.

    Source: McNemar 1947; Edwards 1948.
    """
    if not all(credit in (0.0, 1.0) for credit in (*a, *b)):
        return None
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(y > x for x, y in zip(a, b, strict=True))
    changed = only_a + only_b
    if changed < EXACT_BELOW:
        tail = sum(math.comb(changed, k) for k in range(min(only_a, only_b) + 1))
        return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**changed), "exact")
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / changed
    return McNemar(only_a, only_b, math.erfc(math.sqrt(statistic / 2)), "chi-square")


def changed_ids(
    a: Mapping[str, float], b: Mapping[str, float], keys: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Questions whose credit fell from A to B, and those whose credit rose; the most first."""
    gaps = {key: b[key] - a[key] for key in keys}
    fell = sorted((key for key in keys if gaps[key] < 0), key=lambda key: gaps[key])
    rose = sorted((key for key in keys if gaps[key] > 0), key=lambda key: -gaps[key])
    return fell, rose


def _mean(credits: Sequence[float]) -> float:
    return math.fsum(credits) / len(credits)
