"""Drawing rows by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Selector
from vlforge.ops.select.ranks import check_positive, check_share, smaller_share


@dataclass(frozen=True, kw_only=True)
class RandomSelector(Selector):
    """Keep some rows, drawn and ordered by a fixed seed; all in order where nothing is asked.

    Of `select_num` rows and a share `select_ratio` (0 counts as not given) the
    smaller number is drawn; where that is all rows they stay in order.

    Different: where the share comes to less than one row Data-Juicer keeps all
    rows, here none stays; where more are asked for than there are it shuffles and
    repeats rows, here each stays once. `compat: data_juicer` restores both.
    """

    select_ratio: float | None = None
    select_num: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        check_share("random_selector.select_ratio", self.select_ratio)
        check_positive("random_selector.select_num", self.select_num)

    def rank(self, keys: Sequence[Any]) -> list[int]:
        rows = len(keys)
        count = smaller_share(rows, self.select_ratio, self.select_num)
        if self.compat != "data_juicer":
            count = None if count is None else min(count, rows)
        elif count == 0:
            count = rows
        if count is None or count == rows or rows <= 1:
            return list(range(rows))
        import numpy as np

        drawn: list[int] = np.random.default_rng(self.seed).permutation(rows).tolist()
        return (drawn * -(-count // rows))[:count]
