"""From credits to a `Score`: counts, mean, interval, categories, for every benchmark alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlforge.evaluation.metrics.intervals import interval
from vlforge.evaluation.questions import Question, Score


def result(
    protocol: str,
    questions: Sequence[Question],
    said: Mapping[str, str],
    extracted: Mapping[str, str | None],
    credits: Mapping[str, float] | None,
    *,
    groups: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
    problem: str | None = None,
) -> Score:
    """The mean of credits with all that is told beside it.

    Args:
        extracted: what was read from each answer; None is unparsed.
        credits: 0 to 1 by question id; None where the files have no answers.
        groups: kinds of labels whose categories are reported apart.
        fields: more of `metrics.json`, or others in place of these: a benchmark whose
            headline is no mean gives its own `score` and `interval`.
        problem: what strict scoring refuses.
    """
    found: dict[str, Any] = {
        "score": None,
        "n": len(questions),
        "missing": sum(q.id not in said for q in questions),
        "unparsed": sum(q.id in said and extracted.get(q.id) is None for q in questions),
        "protocol": protocol,
        "interval": None,
    }
    read = {q.id: extracted.get(q.id) for q in questions}
    if credits is None:
        return Score(found | dict(fields or {}), {}, read, problem)
    by_id = {q.id: q for q in questions}
    scored = [by_id[key] for key in credits if key in by_id]
    own = dict(fields or {})
    # The interval of a mean that is not the headline would be drawn for nothing.
    found |= {"n": len(scored)} if "interval" in own else part_of(scored, credits)
    if groups:
        found["groups"] = by_label(scored, credits, groups)
    return Score(found | own, dict(credits), read, problem)


def letters(
    questions: Sequence[Question],
    said: Mapping[str, str],
    reads: Callable[[str, Mapping[str, str]], str | None],
) -> tuple[dict[str, str | None], dict[str, float]]:
    """What a rule reads from answers to questions with options, and 1 for each right letter."""
    extracted = {q.id: reads(said[q.id], q.options) for q in questions if q.id in said}
    return extracted, {q.id: float(extracted.get(q.id) in q.answers) for q in questions}


def part_of(questions: Sequence[Question], credits: Mapping[str, float]) -> dict[str, Any]:
    """Score, count and 95 % interval of some questions; rows of one picture are one draw."""
    values = [credits[question.id] for question in questions]
    pictures = [question.picture_key() for question in questions]
    return {
        "score": sum(values) / len(values) if values else 0.0,
        "n": len(values),
        "interval": list(interval(values, pictures)),
    }


def by_label(
    questions: Sequence[Question], credits: Mapping[str, float], kinds: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`part_of` for every category of the given kinds, in order of appearance.

    A category that stands in two kinds is called `kind: category` the second time.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        members: dict[str, list[Question]] = {}
        for question in questions:
            for label in question.labels_of(kind):
                members.setdefault(label, []).append(question)
        for label, some in members.items():
            found[f"{kind}: {label}" if label in found else label] = part_of(some, credits)
    return found
