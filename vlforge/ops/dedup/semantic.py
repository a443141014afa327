"""Keeping one of rows that mean nearly the same, judged by embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.ops.base import NearDedup
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch

EXACT_ROWS = 20_000
"""Rows that are all compared with each other where nobody says how many clusters."""
_PER_CLUSTER = 1000
_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class SemanticDeduplicator(NearDedup):
    """Keep one of rows whose pictures or texts mean nearly the same (SemDeDup).

    A row's vector is that of its pictures (several: their mean), of its text without
    special tokens, or of both side by side, by a CLIP, SigLIP or text encoder. Rows are cut
    into `n_clusters` by k-means and compared within their cluster: taken in the order that
    `which_to_keep` says, a row is dropped where an earlier one has a cosine of `1 - eps` or
    more to it. `hard` takes the rows farthest from their cluster's centre first, `easy` the
    nearest, `first` those that stand first in the data. Rows without a vector stay.

    `n_clusters: 0` compares all rows with each other up to 20,000, and makes a cluster per
    1,000 rows above. Every row's vector waits in a file in half precision; the result does
    not depend on the number of workers.

    Source: SemDeDup, Abbas et al. 2023; the names of the keys are NeMo Curator's.
    """

    hf_clip: str = "openai/clip-vit-base-patch32"
    by: Literal["images", "texts", "both"] = "images"
    eps: float = 0.05
    which_to_keep: Literal["hard", "easy", "first"] = "hard"
    n_clusters: int = 0
    max_iter: int = 20

    needs: ClassVar = Need.EMBEDDING

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise RecipeError(f"semantic_deduplicator.eps is {self.eps}, not between 0 and 1")
        if self.n_clusters < 0 or self.max_iter < 1:
            raise RecipeError("semantic_deduplicator: n_clusters is 0 or more, max_iter 1 or more")

    @property
    def key_bytes(self) -> int:
        """As the model's vectors are."""
        return 0

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        from vlforge.ops.select.vectors import drawn, embedded_rows, padded, row_key

        vectors, width = embedded_rows(self, batch, self.hf_clip, self.by)
        found: list[bytes | Drop] = []
        for item, vector in zip(batch.items, vectors, strict=True):
            number = drawn(batch.context.seed, "semantic_deduplicator", item.uid)
            bad = vector if isinstance(vector, Drop) else None
            found.append(bad or row_key(number, None, None, vector))
        return list(padded(found, width))

    def firsts(self, keys: Any) -> Any:
        """[N] the row that stays in place of each, of `keys` [N, bytes] uint8."""
        import numpy as np

        from vlforge.ops.select.clustering import k_means
        from vlforge.ops.select.vectors import Rows

        rows = Rows(keys)
        found = np.arange(rows.count)
        clusters = self.n_clusters
        if not clusters:
            clusters = 1 if rows.count <= EXACT_ROWS else rows.count // _PER_CLUSTER
        labels, centres = k_means(rows, clusters, self.max_iter)
        by_label = np.argsort(labels, kind="stable")
        ends = np.cumsum(np.bincount(labels, minlength=len(centres)))
        for begin, end, centre in zip([0, *ends[:-1]], ends, centres, strict=True):
            places = by_label[begin:end]
            places = places[rows.has_vector[places]]
            if len(places) > 1:
                vectors = rows.at(places)
                order = self._order(vectors @ centre)
                kept = _kept(vectors[order], 1 - self.eps)
                found[places[order]] = places[order[kept]]
        return found

    def _order(self, closeness: Any) -> Any:
        """The places of a cluster's rows in the order in which they may stay."""
        import numpy as np

        if self.which_to_keep == "first":
            return np.arange(len(closeness))
        sign = 1 if self.which_to_keep == "hard" else -1
        return np.argsort(sign * closeness, kind="stable")


def _kept(vectors: Any, least: float) -> Any:
    """[n] for each of `vectors` [n, D] the row that stays for it, itself or an earlier one."""
    import numpy as np

    # Many copies of one row would be a cluster too large to compare.
    plain = np.ascontiguousarray(vectors).view(f"V{vectors.shape[1] * 4}")[:, 0]
    _, begins, same = np.unique(plain, return_index=True, return_inverse=True)
    firsts = np.sort(begins)
    kept = firsts[_kept_of_different(vectors[firsts], least)]
    return kept[np.searchsorted(firsts, begins[same])]


def _kept_of_different(vectors: Any, least: float) -> Any:
    import numpy as np

    kept = np.arange(len(vectors))
    for begin in range(0, len(vectors), _AT_ONCE):
        end = min(begin + _AT_ONCE, len(vectors))
        close = vectors[begin:end] @ vectors[:end].T
        close[:, begin:end][np.triu_indices(end - begin)] = -2.0
        best = close.argmax(axis=1)
        # Cosines of equal vectors fall short of 1 by a rounding.
        near = close[np.arange(end - begin), best] >= least - 1e-6
        for at in np.flatnonzero(near):
            kept[begin + at] = kept[best[at]]
    return kept
