"""Drawing rows by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Selector
from vlforge.ops.select.fields import check_share, smaller_share


@dataclass(frozen=True, kw_only=True)
class RandomSelector(Selector):
    """Keep some rows, drawn and ordered by a fixed seed; all in order where nothing is asked.

    Of `select_num` rows and a share `select_ratio` the smaller number is drawn.
    """

    select_ratio: float | None = None
    select_num: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        check_share("random_selector.select_ratio", self.select_ratio)

    def rank(self, keys: Sequence[Any]) -> list[int]:
        count = smaller_share(len(keys), self.select_ratio, self.select_num)
        if count is None or len(keys) <= 1:
            return list(range(len(keys)))
        import numpy as np

        drawn: list[int] = np.random.default_rng(self.seed).permutation(len(keys)).tolist()
        return drawn[:count]
