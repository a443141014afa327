"""Rows judged together are judged as they are one by one."""

from __future__ import annotations

import random
from itertools import product

import pytest

from vlforge.ops.index import find


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize(
    ("any_or_all", "reversed_range", "closed"),
    list(product(["any", "all"], [True, False], [True, False])),
)
def test_pictures_of_all_rows_are_judged_as_those_of_one(most, any_or_all, reversed_range, closed):
    op = find("image_shape_filter")(
        min_width=2, max_width=4, min_height=1, max_height=3, any_or_all=any_or_all,
        reversed_range=reversed_range, min_closed_interval=closed, max_closed_interval=not closed,
    )  # fmt: skip
    pick = random.Random(most)
    counts = [pick.randint(min(most, 1) if most < 3 else 0, most) for _ in range(300)]
    widths = [[pick.randint(0, 5) for _ in range(count)] for count in counts]
    heights = [[pick.randint(0, 4) for _ in range(count)] for count in counts]
    single = [op.keep(*values) for values in zip(widths, heights, strict=True)]
    assert op.keep_all([widths, heights]) == single


def test_no_rows_are_judged_too():
    assert find("image_shape_filter")().keep_all([[], []]) == []
