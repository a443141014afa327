"""Choosing rows that cover what there is, by their embeddings."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.ops.select.budgets import Budget, Budgeted, best_first
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch
    from vlforge.ops.select.vectors import Rows


@dataclass(frozen=True, kw_only=True)
class Embedded(Budgeted):
    """A budget spent by embeddings of pictures, texts or both.

    Of several pictures the mean counts, of a text what is no special token. Rows that have
    neither are taken as all alike and unlike any other row.
    """

    hf_clip: str = "openai/clip-vit-base-patch32"
    by: Literal["images", "texts", "both"] = "images"

    needs: ClassVar = Need.EMBEDDING

    def vectors(self, batch: Batch) -> tuple[list[Any | Drop | None], int]:
        """Of what `by` names."""
        from vlforge.ops.select.vectors import embedded_rows

        return embedded_rows(self, batch, self.hf_clip, self.by)


@dataclass(frozen=True, kw_only=True)
class KCenterSelector(Embedded):
    """Keep rows that cover all others best: each the farthest from those taken before.

    A row's vector is that of its pictures, its text or both, by the encoder `hf_clip`;
    the distance is 1 - cosine. Exactly one of `num`, `ratio` and `tokens` says how much
    is taken. The first row is drawn by the run's seed. With `quality_key` it is the best
    one, and the distance is multiplied with the row's rank in quality (between 0 for the
    worst and 1 for the best), so that odd rows of low quality are no longer taken first.

    The time grows with rows x rows taken: 100,000 rows and 10,000 taken are a thousand
    million products of vectors. For more rows take `cluster_balanced_selector`.

    Source: Gonzalez 1985; Sener and Savarese 2018.
    """

    op_name: ClassVar[str] = "k_center_selector"

    def chosen(self, rows: Rows, budget: Budget) -> list[int]:
        """See the operator."""
        import numpy as np

        from vlforge.ops.select.greedy import farthest

        if not rows.count or budget.left <= 0:
            return []
        if not self.quality_key:
            return farthest(rows, int(rows.order[0]), np.ones(rows.count), budget)
        order = best_first(rows)
        return farthest(rows, int(order[0]), _ranks(rows, order), budget)


def _ranks(rows: Rows, order: Any) -> Any:
    """[N] the share of rows that are no better; equal qualities have one rank."""
    import numpy as np

    quality = np.nan_to_num(rows.quality, nan=-math.inf)
    return np.searchsorted(np.sort(quality), quality, side="right") / len(order)


@dataclass(frozen=True, kw_only=True)
class ClusterBalancedSelector(Embedded):
    """Keep as much of each cluster of alike rows: what is rare stays, what abounds shrinks.

    Rows are cut into `n_clusters` (0: as many as the root of their number) by k-means over
    the vectors of their pictures, texts or both by the encoder `hf_clip`. The budget, one
    of `num`, `ratio` and `tokens`, goes to the cluster that has got least so far; a
    cluster that is used up leaves its share to the others. Within a cluster `pick` takes
    rows by chance (`random`), the best by `quality_key` (`quality`), those nearest to the
    centre (`central`) or farthest from it (`far`).
    """

    n_clusters: int = 0
    max_iter: int = 20
    pick: Literal["random", "quality", "central", "far"] = "random"

    op_name: ClassVar[str] = "cluster_balanced_selector"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_clusters < 0 or self.max_iter < 1:
            raise RecipeError(f"{self.op_name}: n_clusters is 0 or more, max_iter 1 or more")
        if (self.pick == "quality") != bool(self.quality_key):
            raise RecipeError(f"{self.op_name}: pick: quality and quality_key go together")

    def chosen(self, rows: Rows, budget: Budget) -> list[int]:
        """See the operator."""
        import numpy as np

        from vlforge.ops.select.clustering import k_means

        count = self.n_clusters or max(1, math.isqrt(rows.count))
        labels, centres = k_means(rows, count, self.max_iter)
        order = self._order(rows, labels, centres)
        order = order[np.argsort(labels[order], kind="stable")]
        ends = np.cumsum(np.bincount(labels, minlength=len(centres))).tolist()
        return _shared_out([0, *ends[:-1]], ends, order, budget)

    def _order(self, rows: Rows, labels: Any, centres: Any) -> Any:
        """[N] places as they are picked, all clusters together."""
        import numpy as np

        if self.pick == "random":
            return rows.order
        if self.pick == "quality":
            return best_first(rows)
        closeness = np.empty(rows.count)
        for part, vectors in rows.blocks():
            closeness[part] = (vectors * centres[labels[part]]).sum(axis=1)
        sign = -1 if self.pick == "central" else 1
        return np.lexsort((rows.drawn, sign * closeness))


def _shared_out(begins: list[int], ends: list[int], order: Any, budget: Budget) -> list[int]:
    """Places of clusters that lie one after the other in `order`, each cluster given as much."""
    waiting = [(0.0, number) for number, end in enumerate(ends) if begins[number] < end]
    at = list(begins)
    taken: list[int] = []
    while waiting and budget.left > 0:
        spent, number = heapq.heappop(waiting)
        place = int(order[at[number]])
        at[number] += 1
        if budget.take(place):
            taken.append(place)
            spent += float(budget.costs[place])
        if at[number] < ends[number]:
            heapq.heappush(waiting, (spent, number))
    return taken
