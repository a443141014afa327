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
SURE = 0.05
"""What a p value has to stay below."""
FEW = 10
"""Pictures below which a bootstrap interval is not to be leant on."""


@dataclass(frozen=True)
class Difference:
    """Mean credit of B minus that of A over the same `n` questions.

    interval: 95 %, by a paired bootstrap over `clusters` pictures, its seed fixed. changed:
    pictures whose credit changed. sign_p: where those are few, the exact sign test over them,
    for a bootstrap of few changes is too sure: of three, all to one side, it never sees less.
    """

    n: int
    clusters: int
    a: float
    b: float
    interval: tuple[float, float]
    changed: int
    sign_p: float | None = None

    @property
    def value(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def outcome(self) -> Literal["above", "below", "open"]:
        """Where the whole interval lies: B above A, below it, or not told apart."""
        low, high = self.interval
        if self.sign_p is not None and self.sign_p >= SURE:
            return "open"
        return "above" if low > 0 else "below" if high < 0 else "open"

    @property
    def doubt(self) -> str:
        """Why they are not told apart although the interval leaves zero out; else ""."""
        low, high = self.interval
        if self.outcome != "open" or low <= 0 <= high:
            return ""
        pictures = "picture" if self.changed == 1 else "pictures"
        told = f"sign test p {self.sign_p:.3f}"
        return f"only {self.changed} {pictures} changed, too few to tell ({told})"


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
    sums: dict[Hashable, float] = {}
    for gap, cluster in zip(gaps, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + gap
    up, down = sum(x > 1e-12 for x in sums.values()), sum(x < -1e-12 for x in sums.values())
    sign_p = _binomial(up, down) if up + down < EXACT_BELOW else None
    return Difference(len(gaps), count, _mean(a), _mean(b), interval, up + down, sign_p)


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
        return McNemar(only_a, only_b, _binomial(only_a, only_b), "exact")
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


def _binomial(one: int, other: int) -> float:
    """Two-sided exact probability of a split as uneven, each side as likely."""
    tail = sum(math.comb(one + other, k) for k in range(min(one, other) + 1))
    return min(1.0, math.ldexp(tail, 1 - one - other))


def _mean(credits: Sequence[float]) -> float:
    return math.fsum(credits) / len(credits)
