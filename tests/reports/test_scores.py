"""The arithmetic of seeds, intervals and differences."""

from __future__ import annotations

import json
import random
import statistics

import pytest

from tests.reports.made_run import make_run, write_json
from vlforge.reports.claims import headline, verdicts
from vlforge.reports.scores import (
    aggregate,
    baseline_of,
    paired_difference,
    subject_of,
    summarise,
    t_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "published"), [(1, 12.706), (4, 2.776), (30, 2.042), (60, 2.000), (120, 1.980)]
)
def test_t_quantile_equals_published_tables(degrees, published):
    assert t_quantile(degrees) == pytest.approx(published, abs=6e-4)


def test_t_quantile_refuses_a_single_value():
    with pytest.raises(ValueError, match="two values"):
        t_quantile(0)


def test_interval_over_five_seeds_is_students_t():
    found = aggregate([0.5, 0.6, 0.55, 0.58, 0.52])
    half = 2.776 * statistics.stdev([0.5, 0.6, 0.55, 0.58, 0.52]) / 5**0.5
    assert found.mean == pytest.approx(0.55)
    assert found.interval == pytest.approx((0.55 - half, 0.55 + half))


def test_t_interval_covers_the_truth_nineteen_times_in_twenty():
    rng = random.Random(3)
    hits = 0
    for _ in range(2000):
        low, high = aggregate([rng.gauss(0.5, 0.05) for _ in range(3)]).interval
        hits += low <= 0.5 <= high
    assert 0.935 < hits / 2000 < 0.965


def test_one_seed_passes_on_the_questions_interval():
    assert aggregate([0.8], [0.75, 0.85]).interval == (0.75, 0.85)
    assert aggregate([0.8]).interval is None
    assert aggregate([0.8]).sd is None


def test_intervals_never_leave_the_range_of_shares():
    assert aggregate([0.99, 0.90]).interval[1] == 1.0
    assert aggregate([0.01, 0.10]).interval[0] == 0.0


def test_differences_pair_the_seeds_both_arms_have():
    total, per_seed = paired_difference({"0": 0.9, "1": 0.7, "2": 0.5}, {"1": 0.6, "0": 0.5})
    assert per_seed == pytest.approx({"0": 0.4, "1": 0.1})
    assert total.mean == pytest.approx(0.25)
    assert paired_difference({"0": 0.9}, {"1": 0.5}) is None


def test_raw_is_the_baseline_and_refined_the_subject():
    assert baseline_of(["clean", "raw", "refined"]) == "raw"
    assert baseline_of(["one", "two"]) == "one"
    assert subject_of(summary_of(raw=[0.1], clean=[0.9], refined=[0.5])) == "refined"
    assert subject_of(summary_of(one=[0.1], two=[0.9], three=[0.5])) == "two"


def summary_of(**arms):
    """A summary of one score, `textvqa`, from its values per seed."""
    from vlforge.reports.scores import _differences

    summary = {}
    for arm, values in arms.items():
        total = aggregate(values)
        summary[arm] = {
            "textvqa": total.mean,
            "per_seed": {"textvqa": {str(k): v for k, v in enumerate(values)}},
            "sd": {"textvqa": total.sd},
            "interval": {"textvqa": total.interval},
            "interval_over": {"textvqa": "seeds"},
            "groups": {},
        }
    base = baseline_of(list(arms))
    for arm in arms:
        if arm != base:
            summary[arm]["difference"] = _differences(summary[arm], summary[base], base)
    seeds = list(range(max(map(len, arms.values()))))
    return {**summary, "seeds": seeds, "baseline": base}


def test_headline_claims_a_win_only_where_the_seeds_carry_it():
    sure = headline(summary_of(raw=[0.1, 0.12, 0.11], refined=[0.8, 0.82, 0.79]))
    assert sure.startswith("Refined beats raw: reading (TextVQA rule) 0.11")
    unsure = headline(summary_of(raw=[0.1, 0.5, 0.3], refined=[0.4, 0.45, 0.5]))
    assert "beats" not in unsure
    assert "do not tell refined and raw apart" in unsure
    worse = headline(summary_of(raw=[0.8, 0.82, 0.79], refined=[0.1, 0.12, 0.11]))
    assert worse.startswith("Refined loses to raw")


def test_one_seed_claims_no_win():
    text = headline(summary_of(raw=[0.1], refined=[0.9]))
    assert "beats" not in text
    assert text.startswith("In one seed, refined is above raw")
    assert [v.outcome for v in verdicts(summary_of(raw=[0.1], refined=[0.9]))] == ["one_seed"]


def test_memorised_scores_are_called_so_first():
    text = headline(summary_of(model=[0.98]), is_memorised=True)
    assert text == "Memorised: model scores reading (TextVQA rule) 0.98"


def test_summary_of_a_run_holds_what_scores_json_promises(tmp_path):
    run = make_run(tmp_path / "run", arms=("refined", "raw"), seeds=(0, 1, 2), rows=30)
    summary = json.loads(json.dumps(summarise(run)))
    assert summary["seeds"] == [0, 1, 2]
    assert summary["baseline"] == "raw"
    per_seed = summary["refined"]["per_seed"]["textvqa"]
    assert summary["refined"]["textvqa"] == pytest.approx(statistics.mean(per_seed.values()))
    assert 0 < summary["raw"]["mmbench_circular"] < summary["raw"]["mmbench_vanilla"]
    assert summary["refined"]["interval_over"]["textvqa"] == "seeds"
    assert set(summary["raw"]["groups"]["textvqa"]) == {"words seen", "words never seen"}
    shift = summary["refined"]["difference"]["textvqa"]
    assert shift["mean"] == pytest.approx(summary["refined"]["textvqa"] - summary["raw"]["textvqa"])


def test_an_evaluation_shared_by_two_arms_counts_for_both(tmp_path):
    run = make_run(tmp_path / "run", arms=("raw",), rows=10)
    graph = json.loads((run / "graph.json").read_text())
    for node in graph["nodes"]:
        if node["arm"] == "raw":
            node["arms"] = ["raw", "twin"]
    write_json(run / "graph.json", graph)
    summary = summarise(run)
    assert summary["twin"]["textvqa"] == summary["raw"]["textvqa"]
    assert summary["twin"]["difference"]["textvqa"]["mean"] == 0


def test_a_run_without_scores_gives_an_empty_summary(tmp_path):
    assert summarise(make_run(tmp_path / "run", rows=10, evaluated=False)) == {}
