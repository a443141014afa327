"""GQA: compositional questions about scenes; the answer is one of 1,800 words.

`questions` is LLaVA's question jsonl, `annotation` GQA's own questions json
(`testdev_balanced_questions.json`); one of them alone is enough to ask.

Sources: GQA's eval.py, LLaVA@c121f04 (convert_gqa_for_eval), open-compass/VLMEvalKit@e8e78f0,
EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_text
from vlforge.evaluation.metrics.vqa import normalise_m4c
from vlforge.evaluation.question_files import SHORT_ANSWER, read_value
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import result
from vlforge.evaluation.vqa_scores import llava_questions
from vlforge.types import DataError

_NOT_STEPS = ("exist", "query: name", "choose name")
_NO_MARKS = str.maketrans("", "", string.punctuation)


def official(text: str) -> str:
    """As LLaVA's converter hands it to GQA's evaluation: no full stops at the end, small."""
    return text.rstrip(".").lower()


RULES: dict[str, Callable[[str], str]] = {
    "official": official,
    "vlforge": normalise_m4c,
    "vlmevalkit": lambda text: text.strip().lower(),
    "lmms-eval": lambda text: text.lower().translate(_NO_MARKS),
}
"""How both sides are read before they are compared (official: the prediction alone)."""
PROTOCOLS = tuple(RULES)
_KNOWN = Protocols("gqa", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name


def predictions_file(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """What GQA's eval.py takes: `[{"questionId", "prediction"}]`; unanswered ones are left out."""
    rows = [
        {"questionId": q.facts.get("question_id", q.id), "prediction": official(said[q.id])}
        for q in questions
        if q.id in said
    ]
    write_text(target, json.dumps(rows, ensure_ascii=False))


EXPORTS = {"predictions": predictions_file}


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions, with answer and types where GQA's own file is given.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    entries = read_value(Path(spec.annotation)) if spec.annotation else None
    if spec.questions:
        annotated = None
        if entries is not None:
            annotated = {key: _annotation(key, row, spec) for key, row in entries.items()}
        return llava_questions(spec, annotated)
    if entries is None:
        raise DataError("gqa: give questions, annotation or both")
    folder = Path(spec.images or Path(spec.annotation or "").parent)
    found = []
    for key, row in entries.items():
        if not row.get("isBalanced", True):
            continue
        answers, labels = _annotation(key, row, spec)
        found.append(
            Question(
                id=key,
                text=f"{row['question']}\n{SHORT_ANSWER}",
                images=(str(folder / f"{row['imageId']}.jpg"),),
                answers=answers,
                labels=labels,
                asked=str(row["question"]),
                facts={"question_id": key},
            )
        )
    return found


def _annotation(
    key: str, row: Mapping[str, Any], spec: BenchmarkSpec
) -> tuple[tuple[str, ...], dict[str, Any]]:
    if "question" not in row:
        raise DataError(f"{spec.annotation}: entry {key} has no question")
    types = row.get("types") or {}
    structural = str(types.get("structural") or "")
    labels = {
        "kind": ("open" if structural == "query" else "binary") if structural else "",
        "structural": structural,
        "semantic": str(types.get("semantic") or ""),
        "words": str(len(str(row["question"]).split())),
        "steps": str(_steps(row["semantic"])) if "semantic" in row else "",
    }
    return ((str(row["answer"]),) if row.get("answer") is not None else ()), labels


def _steps(program: Sequence[Mapping[str, Any]]) -> int:
    """Steps of reasoning, without those that only name things."""
    told = (f"{step.get('operation')}: {step.get('argument')}" for step in program)
    return sum(not any(name in step for name in _NOT_STEPS) for step in told)


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Share of exactly equal answers, by the types, the words and the steps of GQA's own report.

    Validity, plausibility, consistency, grounding and distribution need files that the
    test splits do not come with; they are not computed.
    """
    name = protocol_name(questions, rule)
    normalise = RULES[name.partition("@")[2]]
    extracted = {q.id: normalise(said[q.id]) or None for q in questions if q.id in said}
    if not all(question.answers for question in questions):
        return result(name, questions, said, extracted, None)
    is_official = normalise is official
    wanted = {q.id: q.answers[0] if is_official else normalise(q.answers[0]) for q in questions}
    credits = {q.id: float(extracted.get(q.id) == wanted[q.id]) for q in questions}
    kinds = ("kind", "structural", "semantic", "steps", "words")
    return result(name, questions, said, extracted, credits, groups=kinds)
