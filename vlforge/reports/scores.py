"""Scores of a run: means over seeds, their intervals, paired differences between arms.

With two seeds or more, intervals are Student's t over seeds (they count training noise); with
one, the evaluate stage's own interval is passed on (it counts the choice of questions only).
`interval_over` says which. Scores are shares, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.reports.run_files import Run, RunNode, number, read_mapping, read_run

_T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NO_ARM = "model"
"""What the one arm of a recipe without arms is called."""


@dataclass(frozen=True)
class Aggregate:
    """A score over seeds. `interval` is 95 %, None where nothing carries one."""

    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    count: int


def t_quantile(degrees: int) -> float:
    """97.5 % point of Student's t, to 3 decimals.

    Raises:
        ValueError: fewer than one degree of freedom.

    Source: table to 30, then Cornish-Fisher (Abramowitz and Stegun 26.7.5).
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom: a t interval needs two values")
    if degrees <= len(_T975):
        return _T975[degrees - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def aggregate(
    values: Sequence[float],
    own: Sequence[float] | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Aggregate:
    """Mean, sample standard deviation and 95 % interval of one value per seed.

    Args:
        values: one score per seed, at least one.
        own: the interval that came with a single value; ignored with more.
        limits: what the quantity cannot leave; intervals are cut there.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to aggregate")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        kept = (float(own[0]), float(own[1])) if own is not None and len(own) == 2 else None
        return Aggregate(mean, None, kept, 1)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    half = t_quantile(count - 1) * sd / math.sqrt(count)
    return Aggregate(mean, sd, (max(limits[0], mean - half), min(limits[1], mean + half)), count)


def paired_difference(
    one: Mapping[str, float], other: Mapping[str, float]
) -> tuple[Aggregate, dict[str, float]] | None:
    """`one` minus `other` over the seeds both have, or None where they share none.

    Returns:
        The aggregate (no interval with one seed) and the difference per seed.
    """
    shared = [seed for seed in one if seed in other]
    if not shared:
        return None
    per_seed = {seed: one[seed] - other[seed] for seed in shared}
    return aggregate(list(per_seed.values()), limits=(-1.0, 1.0)), per_seed


def summarise(run_dir: Path | Run) -> dict[str, Any]:
    """Scores of a run per arm, as `scores.json` keeps them.

    Of several evaluate stages the last in the recipe counts (`eval_stage`). An arm holds its
    mean under each score's name (`textvqa`, `mmbench_circular`, `mmbench_vanilla`), and
    `per_seed`, `sd`, `interval`, `interval_over`, `n` (questions), `groups` and `difference`
    (to the baseline arm) by the same names. Beside the arms stand `seeds` and `baseline`.
    An arm without a finished evaluation is left out; with none finished the result is empty.
    """
    run = run_dir if isinstance(run_dir, Run) else read_run(Path(run_dir))
    stages = evaluate_stages(run)
    return summarise_stage(run, stages[-1]) if stages else {}


def evaluate_stages(run: Run) -> list[str]:
    """Names of the evaluate stages with results, in the graph's order."""
    nodes = run.of_kind("evaluate")
    return list(dict.fromkeys(n.stage for n in nodes if (n.folder / "metrics.json").is_file()))


def summarise_stage(run: Run, stage: str) -> dict[str, Any]:
    """`summarise` for one evaluate stage."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for node in run.of_kind("evaluate"):
        metrics = named_scores(read_mapping(node.folder / "metrics.json"))
        for arm in arms_of(node) if node.stage == stage and metrics else ():
            found.setdefault(arm, {})[seed_of(node)] = metrics
    order = [a for a in [*run.arms, NO_ARM] if a in found]
    summary: dict[str, Any] = {arm: _summarise_arm(found[arm]) for arm in order}
    baseline = baseline_of(order)
    for arm in order:
        if arm != baseline:
            summary[arm]["difference"] = _differences(summary[arm], summary[baseline], baseline)
    seeds = sorted({int(s) for a in found.values() for s in a})
    return {**summary, "seeds": seeds, "baseline": baseline, "eval_stage": stage}


def scored_arms(summary: Mapping[str, Any]) -> list[str]:
    """Arms of a summary, in its order."""
    return [k for k, v in summary.items() if isinstance(v, Mapping) and "per_seed" in v]


def baseline_of(arms: Sequence[str]) -> str | None:
    """The arm others are compared to: `raw` where there is one, else the first."""
    return "raw" if "raw" in arms else next(iter(arms), None)


def subject_of(summary: Mapping[str, Any]) -> str | None:
    """The arm the headline is about: `refined`, else the best mean of those not the baseline."""
    others = [a for a in scored_arms(summary) if a != summary.get("baseline")]
    if not others:
        return summary.get("baseline")
    if "refined" in others:
        return "refined"
    return max(others, key=lambda arm: math.fsum(main_scores(summary[arm]).values()))


def main_scores(arm: Mapping[str, Any]) -> dict[str, float]:
    """The scores that count: circular stands for MMBench, vanilla is only beside it."""
    return {k: arm[k] for k in arm["per_seed"] if k != "mmbench_vanilla"}


def arms_of(node: RunNode) -> tuple[str, ...]:
    """The arms that share a node, or the stand-in name where arms make no difference."""
    return node.arms or (NO_ARM,)


def seed_of(node: RunNode) -> str:
    """The node's seed as a key; a node without one counts as seed 0."""
    return str(node.seed or 0)


def named_scores(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores of one `metrics.json` under their own names, MMBench split in two."""
    scores: dict[str, dict[str, Any]] = {}
    for name, entry in metrics.items():
        if not isinstance(entry, Mapping) or number(entry.get("score")) is None:
            continue
        scores["mmbench_circular" if name == "mmbench" else name] = dict(entry)
        vanilla = number(entry.get("vanilla"))
        if name == "mmbench" and vanilla is not None:
            scores["mmbench_vanilla"] = {"score": vanilla, "n": entry.get("n")}
    return scores


def _summarise_arm(by_seed: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    seeds = sorted(by_seed, key=int)
    names = dict.fromkeys(name for seed in seeds for name in by_seed[seed])
    parts = {n: [by_seed[s][n] for s in seeds if n in by_seed[s]] for n in names}
    totals = {n: _aggregate_entries(entries) for n, entries in parts.items()}
    return {
        **{n: t.mean for n, t in totals.items()},
        "per_seed": {
            n: {s: float(by_seed[s][n]["score"]) for s in seeds if n in by_seed[s]} for n in names
        },
        "sd": {n: t.sd for n, t in totals.items()},
        "interval": {n: _listed(t.interval) for n, t in totals.items()},
        "interval_over": {n: "seeds" if t.count > 1 else "questions" for n, t in totals.items()},
        "n": {n: entries[0].get("n") for n, entries in parts.items()},
        "groups": {n: g for n, entries in parts.items() if (g := _groups(entries))},
    }


def _groups(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each group's score over seeds; a group some seeds lack counts where it occurs."""
    tables = [e["groups"] for e in entries if isinstance(e.get("groups"), Mapping)]
    groups: dict[str, Any] = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        found = [t[name] for t in tables if isinstance(t.get(name), Mapping)]
        found = [f for f in found if number(f.get("score")) is not None]
        if found:
            total = _aggregate_entries(found)
            groups[name] = {
                "score": total.mean,
                "sd": total.sd,
                "n": found[0].get("n"),
                "interval": _listed(total.interval),
            }
    return groups


def _aggregate_entries(entries: Sequence[Mapping[str, Any]]) -> Aggregate:
    own = entries[0].get("interval")
    is_pair = isinstance(own, list | tuple) and all(number(v) is not None for v in own)
    return aggregate([float(e["score"]) for e in entries], own if is_pair else None)


def _differences(arm: Mapping[str, Any], base: Mapping[str, Any], baseline: str) -> dict[str, Any]:
    table: dict[str, Any] = {"to": baseline}
    for name, per_seed in arm["per_seed"].items():
        pair = paired_difference(per_seed, base["per_seed"].get(name, {}))
        if pair:
            table[name] = {
                "mean": pair[0].mean,
                "interval": _listed(pair[0].interval),
                "per_seed": pair[1],
            }
    return table


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
