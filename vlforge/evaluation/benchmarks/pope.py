"""POPE: is there such a thing in the picture? F1 of yes over three kinds of absent things.

`questions` is LLaVA's `llava_pope_test.jsonl`, `annotation` the folder of
`coco_pope_{random,popular,adversarial}.json` (or one of these files); with the folder
alone its own questions are asked. A table of VLMEvalKit (`POPE.tsv`) is both at once.

Sources: LLaVA@c121f04 (eval_pope), AoiDragon/POPE, open-compass/VLMEvalKit@e8e78f0,
EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics.intervals import interval_of
from vlforge.evaluation.metrics.yes_no import NO, RULES, YES, Confusion
from vlforge.evaluation.question_files import SHORT_ANSWER, question_lines, without_suffix
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import result
from vlforge.evaluation.tables import read_table
from vlforge.types import DataError

PROTOCOLS = ("vlforge", "llava", "vlmevalkit", "lmms-eval")
_KNOWN = Protocols("pope", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
_FILES = "coco_pope_*.json"
_OVERALL = ("vlmevalkit", "lmms-eval")
"""Rules whose headline is the F1 of all questions at once, not the mean of the categories'."""


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions, with their answers where an annotation is given.

    LLaVA joins questions to answers by their place within a category. Here that counts
    where all words agree; else picture and words have to be the same.

    Raises:
        DataError: a file that cannot be read, or a question that no annotation has.
    """
    if spec.questions.endswith(".tsv"):
        return _of_table(Path(spec.questions))
    annotated = _annotated(Path(spec.annotation)) if spec.annotation else None
    if not spec.questions:
        if annotated is None:
            raise DataError("pope: give questions, annotation or both")
        return [_question(row, spec, answer, category) for category, row, answer in annotated]
    return _of_llava(spec, annotated)


def _of_llava(
    spec: BenchmarkSpec, annotated: Sequence[tuple[str, dict[str, Any], str]] | None
) -> list[Question]:
    path = Path(spec.questions)
    lines = question_lines(path)
    if annotated is None:
        return [_question(row, spec, "", str(row.get("category", ""))) for _, row in lines]
    found: dict[int, Question] = {}
    for category, members in _by_category(lines).items():
        theirs = [(row, answer) for kind, row, answer in annotated if kind == category]
        for number, row, answer in _joined(members, theirs):
            if answer is None:
                raise DataError(
                    f"{path}:{number}: question {row['question_id']!r} of category {category!r} "
                    f"is not in {spec.annotation}; do both belong together?"
                )
            found[number] = _question(row, spec, answer, category)
    return [found[number] for number, _ in lines]


def _by_category(
    lines: Sequence[tuple[int, dict[str, Any]]],
) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in lines:
        found.setdefault(str(row.get("category", "")), []).append((number, row))
    return found


def _joined(
    lines: Sequence[tuple[int, dict[str, Any]]], annotated: Sequence[tuple[dict[str, Any], str]]
) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """By place where all words agree in order, as LLaVA does; else by picture and words."""
    asked = [without_suffix(str(row["text"])).strip() for _, row in lines]
    theirs = [str(row["text"]).strip() for row, _ in annotated]
    if asked == theirs:
        for (number, row), (_, answer) in zip(lines, annotated, strict=True):
            yield number, row, answer
        return
    keys = [(str(row.get("image")), text) for (row, _), text in zip(annotated, theirs, strict=True)]
    answers = dict(zip(keys, (answer for _, answer in annotated), strict=True))
    for (number, row), text in zip(lines, asked, strict=True):
        yield number, row, answers.get((str(row.get("image")), text))


def _question(row: Mapping[str, Any], spec: BenchmarkSpec, answer: str, category: str) -> Question:
    text = str(row["text"])
    asked = without_suffix(text)
    folder = Path(spec.images or Path(spec.questions or spec.annotation or "").parent)
    image = row.get("image")
    # The three official files count from 1 each.
    own = str(row["question_id"])
    return Question(
        id=own if spec.questions else f"{category}/{own}",
        text=text if text.endswith(SHORT_ANSWER) else f"{text}\n{SHORT_ANSWER}",
        images=(str(folder / str(image)),) if image else (),
        answers=(answer,) if answer else (),
        labels={"category": category},
        asked=asked,
        facts={"question_id": row["question_id"]},
    )


def _annotated(path: Path) -> list[tuple[str, dict[str, Any], str]]:
    """Category, row and answer of every annotated question."""
    files = sorted(path.glob(_FILES)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no {_FILES}")
    return [found for file in files for found in _of_file(file)]


def _of_file(file: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    category = file.stem.removeprefix("coco_pope_")
    for number, row in question_lines(file, ("question_id", "text", "label")):
        answer = str(row["label"]).strip().lower()
        if answer not in (YES, NO):
            raise DataError(f"{file}:{number}: label {row['label']!r} is neither yes nor no")
        yield category, row, answer


def _of_table(path: Path) -> list[Question]:
    """VLMEvalKit's table; a row may stand in several categories."""
    rows = read_table(path, ("index", "question", "answer"))
    pictures: dict[str, tuple[bytes, ...]] = {}
    found = []
    for row in rows:
        cell = row.get("image", "")
        if len(cell) <= 64 and cell in pictures:
            pictures[row["index"]] = pictures[cell]
        elif cell:
            pictures[row["index"]] = (_decoded(cell, row["index"], path),)
        found.append(
            Question(
                id=row["index"],
                text=f"{row['question']}\n{SHORT_ANSWER}",
                images=pictures.get(row["index"], ()),
                answers=(row["answer"].strip().lower(),) if row["answer"] else (),
                labels={"category": tuple(row.get("category", "").split(","))},
                asked=row["question"],
            )
        )
    return found


def _decoded(cell: str, index: str, path: Path) -> bytes:
    try:
        return base64.b64decode("".join(cell.split()), validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{path}: index {index}: its picture is no base64") from None


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """F1 of yes: the mean of the categories' (VLMEvalKit, lmms-eval: of all questions).

    A missing answer, and one that is read as neither, is wrong: where yes is right it was
    not found. lmms-eval leaves such answers out of recall, and its yes_ratio is that of the
    right answers; so it is here under its name.
    """
    name = protocol_name(questions, rule)
    rule = name.partition("@")[2]
    extracted = {q.id: RULES[rule](said[q.id]) for q in questions if q.id in said}
    if not all(question.answers for question in questions):
        return result(name, questions, said, extracted, None)
    counts = {q.id: _counted(q.answers[0], extracted.get(q.id)) for q in questions}
    credits = {q.id: float(extracted.get(q.id) == q.answers[0]) for q in questions}
    members = _members(questions)
    found = {category: _confusion(counts, some) for category, some in members.items()}
    whole = _confusion(counts, questions)
    is_overall = rule in _OVERALL or not found
    f1 = _fields(whole, rule)["f1"]
    if not is_overall:
        f1 = sum(one.f1 for one in found.values()) / len(found)
    kinds = [None] if is_overall else list(found)
    fields = {
        "score": f1,
        "interval": list(_f1_interval(questions, counts, kinds, rule)),
        "accuracy": whole.accuracy,
        "all": _fields(whole, rule),
        "groups": {
            category: {"score": _fields(one, rule)["f1"], "interval": None, **_fields(one, rule)}
            for category, one in found.items()
        },
    }
    return result(name, questions, said, extracted, credits, fields=fields)


def _members(questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        for category in question.labels_of("category"):
            found.setdefault(category, []).append(question)
    return found


_TP, _FP, _TN, _FN, _OTHER_YES, _OTHER_NO = range(6)


def _counted(answer: str, read: str | None) -> int:
    """Which cell of the confusion a question falls into."""
    if read is None:
        return _OTHER_YES if answer == YES else _OTHER_NO
    if read == answer:
        return _TP if answer == YES else _TN
    return _FN if answer == YES else _FP


def _confusion(counts: Mapping[str, int], questions: Sequence[Question]) -> Confusion:
    cells = [0] * 6
    for question in questions:
        cells[counts[question.id]] += 1
    return Confusion(*cells)


def _fields(one: Confusion, rule: str) -> dict[str, float | int]:
    fields = one.fields()
    if rule == "lmms-eval":
        fields["yes_ratio"] = (one.tp + one.fn + one.other_yes) / one.n if one.n else 0.0
        # Its recall looks at the answers yes and no alone.
        found = one.tp + one.fn
        fields["recall"] = one.tp / found if found else 0.0
        both = float(fields["precision"]) + float(fields["recall"])
        fields["f1"] = 2 * one.precision * fields["recall"] / both if both else 0.0
    return fields


def _f1_interval(
    questions: Sequence[Question],
    counts: Mapping[str, int],
    kinds: Sequence[str | None],
    rule: str,
) -> tuple[float, float]:
    """Of the mean F1 over categories, as `rule` counts it; None is all questions together."""
    missed = (_FN,) if rule == "lmms-eval" else (_FN, _OTHER_YES)
    rows = []
    for question in questions:
        row = [0.0] * (3 * len(kinds))
        cell = counts[question.id]
        for place, kind in enumerate(kinds):
            if kind is None or kind in question.labels_of("category"):
                row[3 * place] = float(cell == _TP)
                row[3 * place + 1] = float(cell == _FP)
                row[3 * place + 2] = float(cell in missed)
        rows.append(row)

    def mean_f1(sums: Any) -> Any:
        parts = sums.reshape(len(sums), -1, 3)
        below = 2 * parts[..., 0] + parts[..., 1] + parts[..., 2]
        return (2 * parts[..., 0] / below.clip(min=1)).mean(axis=1)

    return interval_of(mean_f1, rows, [question.picture_key() for question in questions])
