"""95 % intervals of a mean credit: over questions, with rows of one image taken together."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Z = 1.959963984540054
_RESAMPLES = 2000
_AT_ONCE = 100


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) for no trials.

    Source: Wilson 1927.
    """
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    centre = share + Z * Z / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def interval(credits: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """95 % interval of the mean of `credits` (each 0 to 1).

    Rows with equal `clusters` (the same image, rotations of one question) are one
    draw. Independent rights and wrongs get Wilson's interval, all else a bootstrap
    over clusters, its seed fixed. Equal credits everywhere tell a bootstrap nothing:
    they get Wilson's interval with the number of clusters.
    """
    groups: dict[Hashable, list[float]] = {}
    for credit, cluster in zip(credits, clusters, strict=True):
        groups.setdefault(cluster, []).append(credit)
    if not groups:
        return 0.0, 1.0
    is_binary = all(credit in (0.0, 1.0) for credit in credits)
    if len(groups) == len(credits) and is_binary:
        return wilson(sum(credits), len(credits))
    if len(set(credits)) == 1 or len(groups) == 1:
        share = math.fsum(credits) / len(credits)
        return wilson(share * len(groups), len(groups))
    return _bootstrap(list(groups.values()))


def interval_of(
    statistic: Callable[[np.ndarray], np.ndarray],
    counts: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
) -> tuple[float, float]:
    """95 % interval of a statistic of summed counts, such as an F1, by a seeded bootstrap.

    Args:
        statistic: sums [S, K] of S samples -> values [S].
        counts: of each row [R, K]; rows of one cluster are one draw.
    """
    import numpy as np

    numbers = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    if not numbers:
        return 0.0, 1.0
    rows = np.asarray(counts, dtype=np.float64)
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, [numbers[cluster] for cluster in clusters], rows)
    generator = np.random.default_rng(0)
    even = np.full(len(numbers), 1 / len(numbers))
    values = [
        statistic(generator.multinomial(len(numbers), even, size=_AT_ONCE) @ sums)
        for _ in range(_RESAMPLES // _AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(values), (0.025, 0.975))
    return float(low), float(high)


def _bootstrap(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    import numpy as np

    sums = np.array([math.fsum(group) for group in groups])
    sizes = np.array([len(group) for group in groups])
    generator = np.random.default_rng(0)
    means = np.empty(_RESAMPLES)
    for row in range(_RESAMPLES):
        drawn = generator.integers(len(groups), size=len(groups))
        means[row] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
