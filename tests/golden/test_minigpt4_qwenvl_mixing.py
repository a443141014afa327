"""Which dataset MiniGPT-4's first stage takes a batch from, draw for draw."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from vlforge.data.mixing import DrawnMix, Order

GOLDEN = {"ratio_file": "minigpt4_qwenvl/minigpt4/ratio_sampling*.json"}


def test_draws_are_the_references(ratio_file: Path):
    cases = json.loads(ratio_file.read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        ratios, picks = case["ratios"], case["picks"]
        count = len(ratios) if ratios else max(picks) + 1
        mix = DrawnMix(
            names=tuple(f"dataset {i}" for i in range(count)),
            rows=(50,) * count,
            weights=tuple(ratios) if ratios else None,
            seed=case["python_seed"],
            batch=4,
        )
        assert list(islice(mix.draws(), len(picks))) == picks
        rows = islice(Order(mix), 0, 4 * len(picks), 4)
        assert [row.dataset for row in rows] == picks
