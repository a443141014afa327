"""Choosing rows to an exact budget: what selectors with a budget share, and by quality."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.ops.base import Chooser
from vlforge.ops.select.fields import field_of
from vlforge.ops.select.ranks import check_positive, check_share, mean_of
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch, Context
    from vlforge.ops.select.vectors import Rows

_GAMMA = 1.0 / (1 << 64)


@dataclass(frozen=True, kw_only=True)
class Budgeted(Chooser):
    """A selector that spends a budget: rows, a share of them, or tokens.

    Exactly one of `num`, `ratio` and `tokens` is given. `num` and `ratio` (rounded down)
    are met exactly. Of `tokens` no more is spent, and a row that does not fit any more is
    passed over; what a row costs stands in `tokens_key`, by default what
    `token_num_filter` measures. The rows that stay keep their order.
    """

    num: int | None = None
    ratio: float | None = None
    tokens: int | None = None
    tokens_key: str = "__dj__stats__.num_token"
    quality_key: str = ""

    op_name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        given = [key for key in ("num", "ratio", "tokens") if getattr(self, key) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none"
            raise RecipeError(f"{self.op_name} takes one of num, ratio and tokens; given: {said}")
        check_positive(f"{self.op_name}.num", self.num)
        check_positive(f"{self.op_name}.tokens", self.tokens)
        check_share(f"{self.op_name}.ratio", self.ratio)

    def vectors(self, batch: Batch) -> tuple[list[Any | Drop | None], int]:
        """One vector per row, and how many numbers it has; none where they are not needed."""
        return [None] * len(batch.items), 0

    def keys(self, batch: Batch) -> list[bytes | Drop]:
        from vlforge.ops.select.vectors import drawn, padded, row_key

        vectors, width = self.vectors(batch)
        found: list[bytes | Drop] = []
        for item, vector in zip(batch.items, vectors, strict=True):
            if isinstance(vector, Drop):
                found.append(vector)
                continue
            quality = mean_of(field_of(item, self.quality_key)) if self.quality_key else None
            cost = mean_of(field_of(item, self.tokens_key)) if self.tokens is not None else 1.0
            number = drawn(batch.context.seed, self.op_name, item.uid)
            found.append(row_key(number, quality, cost, vector))
        return padded(found, width)

    def choose(self, keys: Any, context: Context) -> Sequence[int]:
        """The places of the rows that stay."""
        from vlforge.ops.select.vectors import Rows

        rows = Rows(keys)
        self._check_found("quality_key", self.quality_key, rows.quality)
        if self.tokens is not None:
            self._check_found("tokens_key", self.tokens_key, rows.cost)
        return sorted(self.chosen(rows, self.budget(rows)))

    def chosen(self, rows: Rows, budget: Budget) -> list[int]:
        """The places that the budget is spent on."""
        raise NotImplementedError

    def budget(self, rows: Rows) -> Budget:
        """What may be spent on some rows."""
        if self.tokens is not None:
            return Budget(float(self.tokens), rows.cost)
        by_ratio = math.floor((self.ratio or 0) * rows.count + 1e-9)
        return Budget(float(by_ratio if self.num is None else self.num), rows.cost)

    def _check_found(self, key: str, field: str, values: Any) -> None:
        import numpy as np

        if field and np.isnan(values).all():
            raise RecipeError(
                f"{self.op_name}.{key} is {field!r}, which no row has as a number; "
                "put the operator that measures it before"
            )


class Budget:
    """What is left to spend, and what each row costs; a row without a cost is never taken."""

    def __init__(self, limit: float, costs: Any):
        self.left = limit
        self.costs = costs

    def take(self, place: int) -> bool:
        """Spend on a row if it fits."""
        fits = bool(self.costs[place] <= self.left)
        self.left -= self.costs[place] if fits else 0
        return fits

    def fitting(self) -> Any:
        """[N] which rows fit by themselves."""
        return self.costs <= self.left

    def spend(self, order: Iterable[int]) -> list[int]:
        """The rows that fit, tried in order."""
        taken = []
        for place in order:
            if self.left <= 0:
                break
            if self.take(place):
                taken.append(int(place))
        return taken


def best_first(rows: Rows) -> Any:
    """[N] places by falling quality, as chance has it among equals; last those without."""
    import numpy as np

    return np.lexsort((rows.drawn, -np.nan_to_num(rows.quality, nan=-math.inf)))


@dataclass(frozen=True, kw_only=True)
class QualityWeightedSelector(Budgeted):
    """Keep rows to an exact budget, by chance weighted with a quality, or the best that differ.

    `quality_key` is a number in each row, such as `__dj__stats__.image_text_similarity`
    (of a list the mean); rows without come last. `mode: sample` draws without repeats with
    weights `exp(quality / temperature)`, the quality brought to mean 0 and deviation 1;
    `temperature: 0` takes the best. `mode: diverse` goes from the best row down and passes
    over rows whose embedding has a cosine of `max_similarity` or more to one taken already;
    what then is missing from the budget is filled with the best of those. It needs
    `hf_clip`, a folder, and compares pictures, texts or `both`.

    What is drawn depends on the run's seed and the row alone.

    Source: QuRating, Wettig et al. 2024 (sample); Deita, Liu et al. 2024 (diverse).
    """

    mode: Literal["sample", "diverse"] = "sample"
    temperature: float = 2.0
    max_similarity: float = 0.9
    hf_clip: str = "openai/clip-vit-base-patch32"
    by: Literal["images", "texts", "both"] = "images"

    op_name: ClassVar[str] = "quality_weighted_selector"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.quality_key:
            raise RecipeError(f"{self.op_name} needs quality_key, a field or __dj__stats__.name")
        if self.temperature < 0:
            raise RecipeError(f"{self.op_name}.temperature is {self.temperature}: 0 or more")
        if self.mode == "diverse":
            object.__setattr__(self, "needs", Need.EMBEDDING)

    def vectors(self, batch: Batch) -> tuple[list[Any | Drop | None], int]:
        """Of what `by` names, for `diverse`."""
        if self.mode == "sample":
            return super().vectors(batch)
        from vlforge.ops.select.vectors import embedded_rows

        return embedded_rows(self, batch, self.hf_clip, self.by)

    def chosen(self, rows: Rows, budget: Budget) -> list[int]:
        """See the operator."""
        if self.mode == "sample":
            return budget.spend(self._drawn(rows).tolist())
        from vlforge.ops.select.greedy import differing

        return differing(rows, best_first(rows), self.max_similarity, budget)

    def _drawn(self, rows: Rows) -> Any:
        """[N] places in the order in which they are drawn, by the largest of perturbed weights."""
        import numpy as np

        if not self.temperature:
            return best_first(rows)
        has = ~np.isnan(rows.quality)
        values = rows.quality[has]
        scaled = (values - values.mean()) / max(float(values.std()), 1e-12)
        uniform = (rows.drawn.astype(np.float64) + 0.5) * _GAMMA
        score = -np.log(-np.log(np.clip(uniform, 1e-300, 1 - 1e-16)))
        score[has] += scaled / self.temperature
        return np.lexsort((rows.drawn, -score, ~has))
