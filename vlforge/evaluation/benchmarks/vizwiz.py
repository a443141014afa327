"""VizWiz: questions of blind people about their own photos; soft accuracy.

`questions` is LLaVA's question jsonl, `annotation` VizWiz's val.json (test has none:
export the upload file). An annotation alone is asked as LLaVA words it.

Source: LLaVA@c121f04 (convert_vizwiz_for_submission).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_text
from vlforge.evaluation.metrics.vqa import normalise_m4c
from vlforge.evaluation.question_files import SHORT_ANSWER, question_lines, read_value
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.vqa_scores import llava_questions, score_soft, ten_answers
from vlforge.types import DataError

PROTOCOLS = ("m4c", "vqa-official", "vlmevalkit")
_KNOWN = Protocols("vizwiz", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
_UNANSWERABLE = (
    "When the provided information is insufficient, respond with 'Unanswerable'.\n" + SHORT_ANSWER
)


def upload(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """The server's list of `{"image", "answer"}` in the questions' order, M4C-normalised."""
    rows = [
        {
            "image": question.facts.get("image", ""),
            "answer": normalise_m4c(said.get(question.id, "")),
        }
        for question in questions
    ]
    write_text(target, json.dumps(rows, ensure_ascii=False))


EXPORTS = {"upload": upload}


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions, with their ten answers where an annotation is given.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    annotated = _annotated(Path(spec.annotation)) if spec.annotation else None
    if spec.questions:
        by_id = None if annotated is None else _by_id(Path(spec.questions), annotated)
        return llava_questions(spec, by_id)
    if annotated is None:
        raise DataError("vizwiz: give questions, annotation or both")
    folder = Path(spec.images or Path(spec.annotation or "").parent)
    return [
        Question(
            id=image,
            text=f"{row['question']}\n{_UNANSWERABLE}",
            images=(str(folder / image),),
            answers=answers,
            labels={"answer_type": str(row.get("answer_type", ""))},
            asked=str(row["question"]),
            facts={"image": image},
        )
        for image, (answers, row) in annotated.items()
    ]


def _annotated(path: Path) -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
    """Answers and entry by picture: each picture has one question."""
    found = {}
    for number, row in enumerate(read_value(path, list)):
        if not isinstance(row, dict) or not {"image", "question"} <= row.keys():
            raise DataError(f"{path}: entry {number} has no image and question")
        answers = ten_answers(row.get("answers"), f"{path}: entry {number}")
        found[str(row["image"])] = (answers, row)
    return found


def _by_id(
    path: Path, annotated: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]]
) -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
    found = {}
    for _, row in question_lines(path):
        entry = annotated.get(str(row.get("image")))
        if entry is not None:
            labels = {"answer_type": str(entry[1].get("answer_type", ""))}
            found[str(row["question_id"])] = (entry[0], labels)
    return found


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Mean soft accuracy, by kind of answer too (`unanswerable` is one)."""
    name = protocol_name(questions, rule)
    return score_soft(name, name.partition("@")[2], questions, said, ("answer_type",))
