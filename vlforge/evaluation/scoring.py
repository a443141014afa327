"""Extraction and scores, of a folder that `eval run` wrote or of answers made elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlforge.evaluation.answers import Answers, read_answers
from vlforge.evaluation.asking import answers_kept, picture_name
from vlforge.evaluation.benchmarks import benchmark, check_specs, questions_of
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import digest_of, read_json, write_json, write_lines
from vlforge.evaluation.judging import (
    Judge,
    judge_answers,
    judge_fields,
    outlook,
    to_judge,
    verdicts_for,
)
from vlforge.evaluation.metrics.intervals import interval
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.settings import failed_fields, protocol_of, told_fields
from vlforge.types import DataError, ProgressFn, no_progress

EXAMPLES = 40
"""Questions per benchmark that `examples.jsonl` shows."""


def score_folder(
    out: Path,
    *,
    protocol: str = "auto",
    benchmarks: Sequence[BenchmarkSpec] | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Extract and score the predictions that lie in `out`.

    Args:
        protocol: overrules the protocol of every benchmark that knows it.
        benchmarks: the files to score against; else as the folder's settings say.
        strict: refuse missing answers and incomplete rotations.

    Raises:
        DataError: nothing to score, or what `strict` refuses.
        RecipeError: a protocol that no benchmark here knows.
    """
    settings = read_json(out / "settings.json")
    specs = benchmarks or [BenchmarkSpec(**spec) for spec in settings["benchmarks"]]
    check_specs(specs, protocol)
    metrics: dict[str, Any] = {}
    examples: list[dict[str, Any]] = []
    for spec in specs:
        module = benchmark(spec.name)
        if protocol != "auto" and module.knows(protocol):
            spec = replace(spec, protocol=protocol)
        questions = questions_of(spec)
        kept = answers_kept(out / f"predictions.{spec.key}.jsonl", questions)
        said = {key: row["text"] for key, row in kept.items()}
        verdicts = verdicts_for(out / f"judged.{spec.key}.jsonl", said)
        score = module.score(questions, said, spec.protocol, verdicts)
        if strict:
            refuse_gaps(spec, questions, said, score)
        write_lines(out / f"extracted.{spec.key}.jsonl", _extracted(questions, score))
        found = _fields(spec, questions, score, settings) | judge_fields(verdicts)
        metrics[spec.key] = found | failed_fields(out, spec.key)
        examples += _examples(spec.key, questions, said, score)
    write_lines(out / "examples.jsonl", examples)
    write_json(out / "metrics.json", metrics)
    return metrics


def score_answers(
    spec: BenchmarkSpec, answers: Path, *, strict: bool = False, judged: Path | None = None
) -> dict[str, Any]:
    """Score a file of answers that some tool wrote; gives what `metrics.json` would hold.

    Args:
        judged: verdicts that `eval judge` wrote.

    Raises:
        DataError: files that cannot be read or do not belong together.
        RecipeError: a protocol that the benchmark does not know.
    """
    questions, found, score, fields = scored_answers(spec, answers, judged=judged)
    if strict:
        refuse_gaps(spec, questions, found.said, score)
    return fields


def scored_answers(
    spec: BenchmarkSpec, answers: Path, *, judged: Path | None = None
) -> tuple[list[Question], Answers, Score, dict[str, Any]]:
    """Questions, answers, score, and what `metrics.json` would hold, of a file of answers.

    Raises:
        DataError: files that cannot be read or do not belong together.
        RecipeError: a protocol that the benchmark does not know.
    """
    check_specs([spec])
    module = benchmark(spec.name)
    questions = questions_of(spec)
    found = read_answers(answers, questions, module)
    verdicts = {**found.verdicts, **verdicts_for(judged, found.said)}
    score = module.score(questions, found.said, spec.protocol, verdicts)
    source: dict[str, Any] = {"model": str(answers), "generation": None, "versions": {}}
    counted = {"duplicate": found.duplicate, "unknown": found.unknown}
    fields = _fields(spec, questions, score, source) | counted | judge_fields(verdicts)
    return questions, found, score, fields


def judge_folder(
    out: Path,
    judge: Judge,
    *,
    only: str = "",
    protocol: str = "auto",
    dry_run: bool = False,
    progress: ProgressFn = no_progress,
) -> list[str]:
    """Ask a judge about the answers in `out` that rules cannot read; gives lines for people.

    Args:
        only: one benchmark's key; else every benchmark that a judge can score.
        dry_run: ask nobody, tell what it would take.

    Raises:
        DataError: no such benchmark in the folder, or none that a judge can score.
        VLForgeError: what would fail for every answer.
    """
    settings = read_json(out / "settings.json")
    specs = [BenchmarkSpec(**spec) for spec in settings["benchmarks"]]
    chosen = [spec for spec in specs if not only or spec.key == only]
    chosen = [spec for spec in chosen if only or hasattr(benchmark(spec.name), "judging")]
    if not chosen:
        known = ", ".join(spec.key for spec in specs)
        raise DataError(f"{out}: nothing for a judge in {only or 'it'}; it holds: {known}")
    lines = []
    for spec in chosen:
        module = benchmark(spec.name)
        rule = protocol if protocol != "auto" and module.knows(protocol) else spec.protocol
        questions = questions_of(spec)
        kept = answers_kept(out / f"predictions.{spec.key}.jsonl", questions)
        said = {key: row["text"] for key, row in kept.items()}
        if dry_run:
            told = outlook(to_judge(module, questions, said, rule), judge.spec).line()
        else:
            path = out / f"judged.{spec.key}.jsonl"
            found = judge_answers(module, questions, said, rule, judge, path, progress=progress)
            told = f"{found.verdicts:,} verdicts, {found.new:,} of them new"
            if found.failed:
                told += f"; {found.failed:,} answers got none, the first: {found.first_failure}"
        lines.append(f"{spec.key}: {told}")
    return lines


def refuse_gaps(
    spec: BenchmarkSpec, questions: Sequence[Question], said: Mapping[str, str], score: Score
) -> None:
    """What strict scoring does not let pass.

    Raises:
        DataError: questions without answer, or what the benchmark calls a problem.
    """
    missing = [question.id for question in questions if question.id not in said]
    if missing:
        raise DataError(
            f"{spec.key}: {len(missing)} questions have no answer, first {missing[0]}; "
            "ask them, or score without strict"
        )
    if score.problem:
        raise DataError(f"{spec.key}: {spec.file}: {score.problem}; score without strict")


def _extracted(questions: Sequence[Question], score: Score) -> Iterator[dict[str, Any]]:
    """What was read from each answer, and its credit; rotations leave that to their first row."""
    for question in questions:
        row = {"id": question.id, "extracted": score.extracted.get(question.id)}
        credit = score.credits.get(question.id)
        yield row if credit is None else {**row, "credit": credit}


def _fields(
    spec: BenchmarkSpec, questions: Sequence[Question], score: Score, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A benchmark's part of `metrics.json`."""
    prompts = "\0".join(question.text for question in questions)
    return {
        **score.fields,
        "protocol": protocol_of(score.fields["protocol"], settings, spec.key),
        "groups": {**score.fields.get("groups", {}), **_groups(spec, questions, score)},
        "model": settings["model"],
        "prompt_hash": hashlib.sha256(prompts.encode()).hexdigest()[:16],
        "data_hash": digest_of(spec.questions, spec.annotation),
        **told_fields(settings, spec),
        "note": settings.get("note", ""),
        "versions": settings["versions"],
    }


def _groups(
    spec: BenchmarkSpec, questions: Sequence[Question], score: Score
) -> dict[str, dict[str, Any]]:
    """Scores of the subsets that the `groups` file names, of those ids that were scored."""
    if not spec.groups:
        return {}
    pictures = {q.id: q.picture_key() for q in questions}
    found = {}
    for name, ids in read_json(Path(spec.groups)).items():
        scored = [i for i in map(str, ids) if i in score.credits and i in pictures]
        credits = [score.credits[i] for i in scored]
        if score.credits and ids and not credits:
            raise DataError(f"{spec.groups}: group {name!r} names no question of {spec.key}")
        if credits:
            low, high = interval(credits, [pictures[i] for i in scored])
            mean = sum(credits) / len(credits)
            found[name] = {"score": mean, "n": len(credits), "interval": [low, high]}
    return found


def _examples(
    key: str, questions: Sequence[Question], said: Mapping[str, str], score: Score
) -> list[dict[str, Any]]:
    """The first questions that were scored, with their answers, for the report."""
    rows = []
    for question in [q for q in questions if q.id in score.credits][:EXAMPLES]:
        image = question.image
        if isinstance(image, bytes):
            image = picture_name(question, image)
        row = {
            "benchmark": key,
            "id": question.id,
            "question": question.asked or question.text,
            "answers": sorted(set(question.answers)),
            "prediction": said.get(question.id),
            "credit": score.credits[question.id],
            "image": image,
        }
        rows.append({**row, "options": dict(question.options)} if question.options else row)
    return rows
