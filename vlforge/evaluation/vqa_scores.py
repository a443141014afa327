"""What VQAv2, VizWiz and TextVQA share: soft accuracy of short answers, and upload rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_text
from vlforge.evaluation.metrics.vqa import ANSWERS, NORMALISERS, normalise_m4c, soft_accuracy
from vlforge.evaluation.question_files import question_lines, without_suffix
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import result
from vlforge.types import DataError


def score_soft(
    protocol: str,
    normaliser: str,
    questions: Sequence[Question],
    said: Mapping[str, str],
    groups: Sequence[str] = (),
) -> Score:
    """Mean soft accuracy; `unparsed` counts answers of which the normaliser leaves nothing."""
    read_as = {q.id: NORMALISERS[normaliser](said[q.id]) or None for q in questions if q.id in said}
    if not all(question.answers for question in questions):
        return result(protocol, questions, said, read_as, None)
    credits = {
        q.id: soft_accuracy(said[q.id], q.answers, normaliser) if q.id in said else 0.0
        for q in questions
    }
    return result(protocol, questions, said, read_as, credits, groups=groups)


def ten_answers(value: Any, place: str) -> tuple[str, ...]:
    """The ten human answers of an annotation, plain or as `{"answer": …}`.

    Raises:
        DataError: another number of answers.
    """
    if not isinstance(value, list) or len(value) != ANSWERS:
        count = len(value) if isinstance(value, list) else "no list of"
        raise DataError(f"{place} has {count} answers where {ANSWERS} belong")
    return tuple(str(one["answer"]) if isinstance(one, dict) else str(one) for one in value)


def llava_questions(
    spec: BenchmarkSpec, annotated: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] | None
) -> list[Question]:
    """The questions of LLaVA's file; answers and labels by question id.

    Args:
        annotated: answers and labels by id; None where there is no annotation.

    Raises:
        DataError: a broken line, an id that stands twice, or one that is not annotated.
    """
    path = Path(spec.questions)
    folder = Path(spec.images) if spec.images else path.parent
    found: dict[str, Question] = {}
    for number, row in question_lines(path):
        key, text, image = str(row["question_id"]), str(row["text"]), row.get("image")
        if key in found:
            raise DataError(f"{path}:{number}: question {key!r} stands twice")
        if annotated is not None and key not in annotated:
            raise DataError(
                f"{path}:{number}: question {key!r} is not in {spec.annotation}; do both files "
                "belong together?"
            )
        answers, labels = annotated[key] if annotated is not None else ((), {})
        found[key] = Question(
            id=key,
            text=text,
            images=(str(folder / str(image)),) if image else (),
            answers=answers,
            labels=labels,
            asked=without_suffix(text),
            facts={"question_id": row["question_id"], "image": image},
        )
    return list(found.values())


def vqa_upload(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """VQAv2's upload: `[{"question_id", "answer"}]`, answers as M4C normalises them, missing "".

    Source: LLaVA scripts/convert_vqav2_for_submission.py.
    """
    rows = [
        {
            "question_id": question.facts.get("question_id", question.id),
            "answer": normalise_m4c(said[question.id]) if question.id in said else "",
        }
        for question in questions
    ]
    write_text(target, json.dumps(rows, ensure_ascii=False))
