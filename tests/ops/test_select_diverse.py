"""Selectors with a budget: exactly spent, spread over what there is, the same for one seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.engine.made import config, contents, lines, write_rows
from tests.ops.told_vectors import Models, chosen, said
from vlforge.engine.in_memory import run_in_memory
from vlforge.engine.local import run_process
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.select import vectors
from vlforge.types import RecipeError

CENTER, BALANCED, WEIGHTED = (
    "k_center_selector", "cluster_balanced_selector", "quality_weighted_selector",
)  # fmt: skip
RARE = np.array([0] * 60 + [1] * 25 + [2] * 10 + [3] * 5)
"""Which of four kinds each of a hundred rows is of."""


def kinds(seed: int = 0):
    draw = np.random.default_rng(seed)
    return np.eye(8)[RARE] + draw.normal(size=(len(RARE), 8)) * 0.05


def greedy(vectors, first, count):
    """k-center as it is written down."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    taken = [first]
    while len(taken) < count:
        away = (1 - units @ units[taken].T).min(1)
        away[taken] = -1
        taken.append(int(away.argmax()))
    return sorted(taken)


def test_k_center_is_the_greedy_choice_of_the_farthest():
    rows = said(kinds(), q=[0.0] * 17 + [1.0] + [0.0] * 82)
    assert len({RARE[at] for at in chosen(rows, CENTER, num=4)}) == 4
    told = np.array([[float(w) for w in row["text"].split()] for row in rows])
    for seed in range(3):
        found = chosen(rows, CENTER, num=12, seed=seed)
        assert any(found == greedy(told, first, 12) for first in found)
    assert 17 in chosen(rows, CENTER, num=1, quality_key="q")


def test_quality_keeps_odd_rows_of_low_quality_out():
    vectors = np.concatenate([kinds(), [np.eye(8)[7]]])
    good = said(vectors, q=[1.0] * 100 + [0.9])
    bad = said(vectors, q=[*np.linspace(0.5, 1, 100), 0.0])
    assert 100 in chosen(good, CENTER, num=5)
    assert 100 not in chosen(bad, CENTER, num=5, quality_key="q")


def test_balanced_clusters_get_as_much_and_leave_what_they_cannot_use():
    found = chosen(said(kinds()), BALANCED, num=32, n_clusters=4)
    assert Counter(RARE[found].tolist()) == {0: 9, 1: 9, 2: 9, 3: 5}
    assert found == sorted(found)


@pytest.mark.parametrize("pick", ["quality", "central", "far"])
def test_within_a_cluster_rows_are_picked_by_what_was_asked(pick):
    rows = said(kinds(), q=range(100))
    more = {"quality_key": "q"} if pick == "quality" else {}
    found = chosen(rows, BALANCED, num=4, n_clusters=4, pick=pick, **more)
    assert sorted(RARE[found]) == [0, 1, 2, 3]
    if pick == "quality":
        assert found == [59, 84, 94, 99]
        return
    told = np.array([[float(w) for w in row["text"].split()] for row in rows])
    units = told / np.linalg.norm(told, axis=1, keepdims=True)
    for at in found:
        alike = np.flatnonzero(RARE[at] == RARE)
        centre = units[alike].mean(0)
        order = alike[np.argsort(units[alike] @ centre)]
        assert at == order[-1 if pick == "central" else 0]


def test_drawing_by_quality_prefers_the_good_and_forgets_nobody():
    rows = said(np.ones((400, 2)), q=[0] * 200 + [1] * 200)
    counts = Counter()
    for seed in range(20):
        found = chosen(rows, WEIGHTED, num=40, quality_key="q", temperature=1.0, seed=seed)
        counts.update(at >= 200 for at in found)
    # Weights e^-1 and e^1: nearly e^2 good rows for each bad one.
    assert 0.83 < counts[True] / 800 < 0.92
    best = chosen(rows, WEIGHTED, ratio=0.5, quality_key="q", temperature=0)
    assert best == list(range(200, 400))


def test_rows_without_quality_come_last():
    rows = said(np.ones((6, 2)), q=[None, 0.1, "x", 0.2, None, -5.0])
    assert chosen(rows, WEIGHTED, num=3, quality_key="q", temperature=100.0) == [1, 3, 5]
    assert len(chosen(rows, WEIGHTED, num=5, quality_key="q")) == 5


def test_the_best_that_differ_are_filled_up_with_the_best_of_the_rest():
    rows = said(kinds(), q=range(100))
    found = chosen(rows, WEIGHTED, num=4, quality_key="q", mode="diverse")
    assert found == [59, 84, 94, 99]
    found = chosen(rows, WEIGHTED, num=6, quality_key="q", mode="diverse")
    assert found == [59, 84, 94, 97, 98, 99]


@pytest.mark.parametrize("op", [CENTER, BALANCED, WEIGHTED])
@pytest.mark.parametrize(("keys", "count"), [
    ({"num": 7}, 7), ({"ratio": 0.29}, 29), ({"num": 500}, 100), ({"ratio": 0.0}, 0),
])  # fmt: skip
def test_a_budget_of_rows_is_met_exactly(op, keys, count):
    rows = said(kinds(), q=range(100))
    more = {"quality_key": "q"} if op == WEIGHTED else {}
    assert len(chosen(rows, op, **keys, **more)) == count


@pytest.mark.parametrize("op", [CENTER, BALANCED, WEIGHTED])
def test_a_budget_of_tokens_is_spent_as_far_as_rows_fit(op):
    costs = [3 + at % 5 for at in range(100)]
    rows = said(kinds(), q=range(100), n=[None, *costs[1:]])
    more = {"quality_key": "q"} if op == WEIGHTED else {}
    found = chosen(rows, op, tokens=100, tokens_key="n", **more)
    assert 0 not in found
    assert 98 <= sum(costs[at] for at in found) <= 100


@pytest.mark.parametrize("op", [CENTER, BALANCED, WEIGHTED])
def test_the_choice_depends_on_the_seed_and_not_on_workers_or_blocks(tmp_path, op):
    rows = said(np.random.default_rng(1).normal(size=(600, 4)), q=list(range(600)))
    rows[9]["text"] = ""
    more = {"quality_key": "q"} if op == WEIGHTED else {"by": "texts"}
    settings = config(write_rows(tmp_path / "a.jsonl", rows), {op: {"num": 40, **more}})
    found = []
    for workers, seed in ((1, 0), (3, 0), (1, 5)):
        out = tmp_path / f"{workers}-{seed}"
        run_process(settings, out, models=Models(), workers=workers, seed=seed)
        found.append(contents(out))
    assert found[0] == found[1] != found[2]
    uids = [line["uid"] for line in lines(tmp_path / "1-0" / "dropped.jsonl")]
    kept = lines(tmp_path / "1-0" / "data.jsonl")
    assert len(kept) == 40
    assert len(uids) == 560
    uids += [line["uid"] for line in lines(tmp_path / "1-0" / "stats.jsonl")]
    by_line = sorted(uids, key=lambda uid: int(uid.rpartition("-")[2]))
    items = [Item(uid, at, row) for at, (uid, row) in enumerate(zip(by_line, rows, strict=True))]
    ran = run_in_memory(bind(settings.process), items, Context(models=Models()))
    assert [item.row for item in ran.kept] == kept


def test_a_mark_keeps_all_rows_and_says_which_were_chosen(tmp_path):
    rows = said(np.eye(4)[[0, 1, 2, 3] * 300], s=[at % 7 for at in range(1200)])
    path = write_rows(tmp_path / "a.jsonl", rows)
    marks = (
        {"topk_specified_field_selector": {"field_key": "s", "top_ratio": 0.3, "mark": "top"}},
        {BALANCED: {"num": 600, "by": "texts", "n_clusters": 4, "mark": "spread"}},
    )
    both = tuple(
        {"specified_field_filter": {"field_key": f"__dj__stats__.{name}", "target_value": [True]}}
        for name in ("top", "spread")
    )
    run_process(config(path, *marks, *both), tmp_path / "both", models=Models())
    kept = {row["id"] for row in lines(tmp_path / "both" / "data.jsonl")}
    alone = []
    for number, entry in enumerate(marks):
        ((name, keys),) = entry.items()
        settings = config(path, {name: {k: v for k, v in keys.items() if k != "mark"}})
        run_process(settings, tmp_path / f"{number}", models=Models())
        alone.append({row["id"] for row in lines(tmp_path / f"{number}" / "data.jsonl")})
    assert [len(ids) for ids in alone] == [360, 600]
    assert kept == alone[0] & alone[1] != set()


@pytest.mark.parametrize(("keys", "said_"), [
    ({}, "takes one of num, ratio and tokens; given: none"),
    ({"num": 2, "ratio": 0.5}, "given: num and ratio"),
    ({"ratio": 2.0}, "ratio is 2"),
    ({"num": 3, "pick": "quality"}, "go together"),
])  # fmt: skip
def test_budgets_that_mean_nothing_are_refused(keys, said_):
    with pytest.raises(RecipeError, match=said_):
        bind([{BALANCED: keys}])


def test_a_quality_or_cost_that_no_row_has_ends_the_run_with_the_remedy():
    rows = said(kinds())
    with pytest.raises(
        RecipeError, match=r"tokens_key is '__dj__stats__\.num_token', which no row"
    ):
        chosen(rows, CENTER, tokens=50)
    with pytest.raises(RecipeError, match="quality_key is 'q', which no row has"):
        chosen(rows, CENTER, num=5, quality_key="q")


@pytest.mark.parametrize("op", [CENTER, BALANCED, "diverse", "semantic_deduplicator"])
def test_vectors_that_do_not_fit_into_memory_are_read_again_to_the_same_end(monkeypatch, op):
    rows = said(np.random.default_rng(3).normal(size=(300, 6)), q=list(range(300)))
    keys = {"num": 30} if op != "semantic_deduplicator" else {"eps": 0.1, "n_clusters": 4}
    if op == "diverse":
        op, keys = WEIGHTED, {**keys, "mode": "diverse", "quality_key": "q"}
    found = []
    for memory, at_once in ((vectors.IN_MEMORY, vectors.ROWS_AT_ONCE), (0, 64)):
        monkeypatch.setattr(vectors, "IN_MEMORY", memory)
        monkeypatch.setattr(vectors, "ROWS_AT_ONCE", at_once)
        found.append(chosen(rows, op, **keys))
    assert found[0] == found[1]
    assert 0 < len(found[0]) < 300
