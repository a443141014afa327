"""Scores of several runs: who is above whom, and whether they saw as much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vlforge.evaluation.pairing import Evaluated, compare, differences, read_evaluations, refusal
from vlforge.reports import charts, claims, numbers
from vlforge.reports.run_files import RunNode, number, read_lines, read_mapping
from vlforge.reports.run_sides import Series
from vlforge.reports.scores import NO_ARM, main_scores, paired_difference, summarise
from vlforge.types import DataError

_RANKED = 3
_BENCHMARKS = {"mmbench_circular": "mmbench"}
"""Scores whose benchmark is called otherwise."""


@dataclass(frozen=True)
class SeriesScore:
    """One series' score; `against` says in words how it lies to the first that has one."""

    label: str
    tone: int
    mean: float
    interval: tuple[float, float] | None
    seeds: int
    chart: Markup | None
    outcome: str
    against: str


@dataclass(frozen=True)
class ScorePanel:
    """One score of all series; `warning` says why they may not be comparable."""

    name: str
    label: str
    rows: tuple[SeriesScore, ...]
    warning: str

    @property
    def has_axis(self) -> bool:
        """Whether the score is a share, which the charts show from 0 to 1."""
        return all(row.chart is not None for row in self.rows)


def view_scores(series: Sequence[Series]) -> list[ScorePanel]:
    """A panel per score, series in their order."""
    found = {one.label: _arm_of(one) for one in series}
    names = dict.fromkeys(n for arm in found.values() if arm for n in main_scores(arm))
    panels = []
    for name in names:
        own = [one for one in series if name in (found[one.label] or {}).get("per_seed", {})]
        arms = {one.label: found[one.label] or {} for one in own}
        rows = tuple(_row(one, own[0], name, arms) for one in own)
        panels.append(ScorePanel(name, claims.score_label(name), rows, _warning(own, name)))
    return panels


def headline(panels: Sequence[ScorePanel], is_fair: bool) -> str:
    """One sentence: two series against each other, or the best of more."""
    if not panels:
        return "No scores yet"
    if all(len(panel.rows) == 2 for panel in panels):
        text = _two(panels)
    else:
        text = "; ".join(f"{p.label}: {_ranking(p.rows)}" for p in panels)
        text = text[:1].upper() + text[1:]
    return text if is_fair else f"{text}, but not at equal budget"


def budgets(series: Sequence[Series]) -> dict[str, dict[str, float]]:
    """Samples that each series saw, by stage, as a mean over seeds; of unfinished stages so far."""
    found: dict[str, dict[str, float]] = {}
    for one in series:
        by_stage: dict[str, list[float]] = {}
        for node in one.trained:
            seen = samples_of(node)
            if seen is not None:
                by_stage.setdefault(node.stage, []).append(seen)
        found[one.label] = {stage: sum(s) / len(s) for stage, s in by_stage.items()}
    return found


def samples_of(node: RunNode) -> float | None:
    """Samples that a node has seen."""
    samples = number(read_mapping(node.folder / "summary.json").get("samples"))
    if samples is not None:
        return samples
    last = [number(line.get("samples")) for line in read_lines(node.folder / "metrics.jsonl")]
    return max((at for at in last if at is not None), default=None)


def _arm_of(one: Series) -> dict[str, Any] | None:
    summary = summarise(one.side.run)
    arm = summary.get(one.arm or NO_ARM)
    return arm if isinstance(arm, dict) and "per_seed" in arm else None


def _row(
    one: Series, first: Series, name: str, arms: Mapping[str, Mapping[str, Any]]
) -> SeriesScore:
    arm = arms[one.label]
    mean, interval, per_seed = arm[name], arm["interval"][name], arm["per_seed"][name]
    is_share = 0 <= mean <= 1
    chart = charts.score_track(mean, interval, per_seed, one.tone, one.label) if is_share else None
    outcome, words = ("", "")
    if one is not first:
        outcome, words = _against(one, first, name, arms)
    limits = (interval[0], interval[1]) if interval else None
    return SeriesScore(one.label, one.tone, mean, limits, len(per_seed), chart, outcome, words)


def _against(
    one: Series, first: Series, name: str, arms: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str]:
    """Over the seeds both have where those are several, else question by question."""
    start = f"{one.label} − {first.label}: "
    pair = paired_difference(arms[one.label]["per_seed"][name], arms[first.label]["per_seed"][name])
    if pair and pair[0].interval is not None:
        low, high = pair[0].interval
        outcome = "above" if low > 0 else "below" if high < 0 else "open"
        told = f"{numbers.signed(pair[0].mean)} [{numbers.signed(low)}, {numbers.signed(high)}]"
        return outcome, f"{start}{told} over {pair[0].count} seeds"
    sides = [_evaluated(side, name) for side in (first, one)]
    value = numbers.signed(arms[one.label][name] - arms[first.label][name])
    if sides[0] is None or sides[1] is None:
        return "one_seed", f"{start}{value} in one seed, which has no interval"
    try:
        why = refusal(sides[0], sides[1])
        found = None if why else compare(sides[0], sides[1])
    except DataError:
        found = None
    if found is None or not found.is_score:
        return "one_seed", f"{start}{value} in one seed, which has no interval"
    low, high = found.whole.interval
    told = f"{numbers.signed(found.whole.value)} [{numbers.signed(low)}, {numbers.signed(high)}]"
    changed = f"{len(found.rose):,} questions better, {len(found.fell):,} worse"
    changed += f"; {found.whole.doubt}" if found.whole.doubt else ""
    return found.whole.outcome, f"{start}{told} over questions, one seed; {changed}"


def _evaluated(one: Series, name: str) -> Evaluated | None:
    """The first seed's answers to a benchmark, where its files tell credits."""
    for node in one.nodes:
        if node.kind == "evaluate" and (node.folder / "metrics.json").is_file():
            try:
                found = read_evaluations(node.folder).get(_BENCHMARKS.get(name, name))
            except (DataError, OSError, TypeError):
                continue
            if found is not None:
                return found
    return None


def _warning(own: Sequence[Series], name: str) -> str:
    sides = [_evaluated(one, name) for one in own]
    first = next((side for side in sides if side is not None), None)
    words = {"protocol": "by another protocol", "prompt_hash": "with other prompts"}
    words["data_hash"] = "on other data"
    for one, side in zip(own, sides, strict=True):
        differing = differences(first, side) if first is not None and side is not None else []
        if differing:
            told = " and ".join(words[what] for what in differing)
            return f"{one.label} was scored {told}: not comparable with {own[0].label}"
    return ""


def _two(panels: Sequence[ScorePanel]) -> str:
    words: dict[str, list[str]] = {}
    for panel in panels:
        first, second = panel.rows
        values = f"{panel.label} {first.mean:.3f}\u00a0→\u00a0{second.mean:.3f}"
        words.setdefault("open" if panel.warning else second.outcome, []).append(values)
    a, b = (row.label for row in panels[0].rows)
    verbs = {
        "above": f"{b} beats {a} on",
        "below": f"{b} loses to {a} on",
        "open": f"{a} and {b} are not told apart on",
        "one_seed": f"{b} against {a}, in one seed:",
    }
    return "; ".join(f"{verb} {', '.join(words[k])}" for k, verb in verbs.items() if k in words)


def _ranking(rows: Sequence[SeriesScore]) -> str:
    """The best first; of many only that one."""
    ranked = [f"{row.label}\u00a0{row.mean:.3f}" for row in sorted(rows, key=lambda row: -row.mean)]
    return (
        ", ".join(ranked) if len(ranked) <= _RANKED else f"{ranked[0]} is the best of {len(ranked)}"
    )
