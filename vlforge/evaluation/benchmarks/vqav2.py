"""VQAv2: short answers about photos; soft accuracy against ten human answers.

`questions` is LLaVA's question jsonl or the official questions json, `annotation` the
official annotations json (test splits have none: export the upload file).

Sources: GT-Vision-Lab/VQA@a013f00, LLaVA@c121f04.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics.vqa import NORMALISERS
from vlforge.evaluation.question_files import SHORT_ANSWER, read_value
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.vqa_scores import llava_questions, score_soft, ten_answers, vqa_upload
from vlforge.types import DataError

PROTOCOLS = ("vqa-official", "m4c", "vlmevalkit")
_KNOWN = Protocols("vqav2", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
EXPORTS = {"upload": vqa_upload}
assert set(PROTOCOLS) == set(NORMALISERS)


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions, with their ten answers where an annotation is given.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    annotated = _annotated(Path(spec.annotation)) if spec.annotation else None
    if spec.questions.endswith(".json"):
        return _official(spec, annotated)
    if not spec.questions:
        raise DataError("vqav2: give questions, LLaVA's jsonl or the official json")
    return llava_questions(spec, annotated)


def _annotated(path: Path) -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
    found: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {}
    for number, row in enumerate(_entries(read_value(path), "annotations", path)):
        answers = ten_answers(row.get("answers"), f"{path}: annotation {number}")
        labels: dict[str, Any] = {
            k: str(row[k]) for k in ("answer_type", "question_type") if k in row
        }
        found[str(row.get("question_id"))] = (answers, labels)
    return found


def _entries(value: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    rows = value.get(name)
    if not isinstance(rows, list):
        raise DataError(f"{path}: has no list {name!r}")
    return rows


def _official(
    spec: BenchmarkSpec, annotated: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] | None
) -> list[Question]:
    path = Path(spec.questions)
    value = read_value(path)
    folder = Path(spec.images) if spec.images else path.parent
    split = value.get("data_subtype", "")
    found = []
    for row in _entries(value, "questions", path):
        key, asked = str(row.get("question_id")), str(row.get("question"))
        if annotated is not None and key not in annotated:
            raise DataError(f"{path}: question {key} is not in {spec.annotation}")
        answers, labels = annotated[key] if annotated is not None else ((), {})
        name = f"COCO_{split}_{int(row['image_id']):012d}.jpg"
        found.append(
            Question(
                id=key,
                text=f"{asked}\n{SHORT_ANSWER}",
                images=(str(folder / name),),
                answers=answers,
                labels=labels,
                asked=asked,
                facts={"question_id": row["question_id"], "image": name},
            )
        )
    return found


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Mean soft accuracy, by kind of answer and of question too."""
    name = protocol_name(questions, rule)
    kinds = ("answer_type", "question_type")
    return score_soft(name, name.partition("@")[2], questions, said, kinds)
