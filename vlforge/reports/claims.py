"""Sentences about scores that say what the seeds carry and nothing more.

A difference counts as shown when the 95 % interval of the paired differences over seeds lies
on one side of zero. One seed shows nothing about training noise, and the sentence says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlforge.reports import numbers
from vlforge.reports.scores import main_scores, scored_arms, subject_of

_NAMES = {
    "textvqa": ("reading", "TextVQA rule"),
    "mmbench_circular": ("choices", "MMBench circular"),
    "mmbench_vanilla": ("choices", "MMBench vanilla"),
}


@dataclass(frozen=True)
class Verdict:
    """One comparison in words. `outcome`: above, below, open (not told apart), one_seed."""

    outcome: str
    score: str
    text: str


def score_words(name: str) -> tuple[str, str]:
    """What a score measures and by which rule; an unknown score is its own name."""
    return _NAMES.get(name, (name.replace("_", " "), ""))


def score_label(name: str) -> str:
    """`reading (TextVQA rule)`."""
    skill, rule = score_words(name)
    return f"{skill} ({rule})" if rule else skill


def outcome_of(difference: Mapping[str, Any] | None) -> str:
    """What the interval of a difference says, see `Verdict`."""
    interval = difference.get("interval") if difference else None
    if interval is None:
        return "one_seed"
    if interval[0] > 0:
        return "above"
    return "below" if interval[1] < 0 else "open"


def headline(summary: Mapping[str, Any], is_memorised: bool = False) -> str:
    """One sentence: which arm does what against the baseline, on which score.

    Empty where nothing is scored. Scores on questions that were trained on are called
    memorised before anything else is said.
    """
    text = _headline(summary)
    return f"Memorised: {text[:1].lower()}{text[1:]}" if is_memorised and text else text


def _headline(summary: Mapping[str, Any]) -> str:
    subject, baseline = subject_of(summary), summary.get("baseline")
    if subject is None:
        return ""
    if subject == baseline:
        values = [f"{score_label(n)} {v:.2f}" for n, v in main_scores(summary[subject]).items()]
        return f"{_title(subject)} scores {_join(values)}"
    names = list(main_scores(summary[subject]))
    differences = summary[subject]["difference"]
    by_outcome: dict[str, list[str]] = {}
    for name in names:
        if name in differences:
            by_outcome.setdefault(outcome_of(differences[name]), []).append(
                _arrow(name, summary[baseline][name], summary[subject][name])
            )
    return _sentence(by_outcome, subject, str(baseline), differences)


def verdicts(summary: Mapping[str, Any]) -> list[Verdict]:
    """The subject against every other arm, one line per arm and score."""
    from vlforge.reports.scores import paired_difference

    subject = subject_of(summary)
    lines: list[Verdict] = []
    for other in scored_arms(summary):
        if other == subject:
            continue
        for name in main_scores(summary[subject]):
            pair = paired_difference(
                summary[subject]["per_seed"][name], summary[other]["per_seed"].get(name, {})
            )
            if pair:
                found = {"interval": pair[0].interval}
                lines.append(_verdict(outcome_of(found), str(subject), other, name, pair[0]))
    return lines


def seeds_words(summary: Mapping[str, Any]) -> str:
    """`5 seeds`, or `one seed`."""
    count = len(summary.get("seeds") or [])
    return "one seed" if count == 1 else f"{count} seeds"


def _verdict(outcome: str, subject: str, other: str, name: str, total: Any) -> Verdict:
    size = numbers.signed(total.mean)
    if outcome == "one_seed":
        text = f"{subject} − {other}: {size} in one seed, which has no interval"
        return Verdict(outcome, name, text)
    low, high = (numbers.signed(v) for v in total.interval)
    how = {"above": "above", "below": "below", "open": "not told apart from"}[outcome]
    return Verdict(outcome, name, f"{subject} {how} {other}: {size} [{low},\u00a0{high}]")


def _sentence(
    by_outcome: Mapping[str, list[str]], subject: str, baseline: str, differences: Mapping[str, Any]
) -> str:
    if "one_seed" in by_outcome:
        means = [d["mean"] for d in differences.values() if isinstance(d, Mapping)]
        verb = "is above" if min(means) > 0 else "is below" if max(means) < 0 else "against"
        values = _join(by_outcome["one_seed"])
        return f"In one seed, {subject} {verb} {baseline}: {values}"
    parts = []
    for outcome, verb in (("above", "beats"), ("below", "loses to")):
        if outcome in by_outcome:
            start = f"{subject} {verb} {baseline}: " if not parts else f"it {verb} {baseline} on "
            parts.append(start + _join(by_outcome[outcome]))
    if "open" in by_outcome:
        values = _join(by_outcome["open"])
        both = "the two" if parts else f"{subject} and {baseline}"
        parts.append(f"the seeds do not tell {both} apart on {values}")
    return _title("; ".join(parts)) if parts else f"{_title(subject)} and {baseline} share no seed"


def _arrow(name: str, old: float, new: float) -> str:
    return f"{score_label(name)} {old:.2f}\u00a0→\u00a0{new:.2f}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]
