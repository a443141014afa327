"""MathVista: mathematics in pictures; a choice, a number or a list.

`questions` (or `annotation`) is `testmini.json`, a parquet of Hugging Face's MathVista, or an
output file of its own code, whose extractions are then taken as they are.

Sources: lupantech/MathVista@53d5258, Mini-Gemini@769820c, open-compass/VLMEvalKit@e8e78f0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Judging, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_json
from vlforge.evaluation.metrics import choices, mathvista
from vlforge.evaluation.question_files import letters_of, question_lines, read_value
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import result
from vlforge.evaluation.tables import parquet_rows
from vlforge.types import DataError

PROTOCOLS = ("vlforge", "official", "vlmevalkit")
_KNOWN = Protocols("mathvista", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
MAX_NEW_TOKENS = 1024
_KINDS = (
    "question_type", "answer_type", "language", "source", "category", "task", "context", "grade",
    "skills",
)  # fmt: skip


def output_file(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """The file that MathVista's extract_answer takes: problems by id, each with its `response`."""
    rows = {
        q.id: {**q.facts["row"], "query": q.text, "response": said[q.id]}
        for q in questions
        if q.id in said
    }
    write_json(target, json.loads(json.dumps(rows, default=str)))


EXPORTS = {"output": output_file}


def verdict_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The extraction that an output file of MathVista's own code has."""
    return {"extraction": str(row["extraction"])} if row.get("extraction") is not None else None


def read(spec: BenchmarkSpec) -> list[Question]:
    """The problems with their answers.

    Raises:
        DataError: a file that cannot be read, or a problem that lacks a field.
    """
    path = Path(spec.questions or spec.annotation or "")
    folder = Path(spec.images) if spec.images else path.parent
    return [_question(key, row, folder, place) for place, key, row in _problems(path)]


def _problems(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    if path.suffix == ".jsonl":
        for number, row in question_lines(path, ("pid",)):
            yield f"{path}:{number}", str(row["pid"]), row
    elif path.suffix == ".json":
        for key, row in read_value(path).items():
            yield f"{path}: problem {key}", str(key), row
    else:
        for place, row in parquet_rows(path):
            yield place, str(row.get("pid")), row


def _question(key: str, row: Mapping[str, Any], folder: Path, place: str) -> Question:
    try:
        # An output file need not repeat the question.
        text = row.get("query") or (mathvista.query(row) if "question" in row else "")
        facts = {name: row[name] for name in ("question_type", "answer_type")}
    except KeyError as error:
        raise DataError(f"{place}: has no {error}") from None
    told = {**(row.get("metadata") or {}), **row}
    labels = {kind: _label(told.get(kind)) for kind in _KINDS}
    given = row.get("choices")
    facts |= {"choices": list(given) if given is not None else None}
    facts |= {"precision": row.get("precision"), "row": _plain(row)}
    answer = row.get("answer")
    return Question(
        id=key,
        text=str(text),
        images=_images(row, folder),
        answers=(str(answer),) if answer not in (None, "") else (),
        labels=labels,
        asked=str(row.get("question", "")),
        facts=facts,
    )


def _label(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(map(str, value))
    return "" if value is None else str(value)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "decoded_image"}


def _images(row: Mapping[str, Any], folder: Path) -> tuple[str | bytes, ...]:
    decoded = row.get("decoded_image")
    if isinstance(decoded, dict) and decoded.get("bytes"):
        return (decoded["bytes"],)
    return (str(folder / str(row["image"])),) if row.get("image") else ()


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Share of right answers, by every kind of MathVista's report.

    An extraction that a judge or the answers' file gives comes before the rule's own.
    `official` reads little without a judge, and what it cannot read is still the nearest
    choice; `vlforge` counts that as wrong. `vlmevalkit` is its prefetch: a letter by exact
    matching, or a number that is all there is.
    """
    name = protocol_name(questions, rule)
    rule = name.partition("@")[2]
    extracted: dict[str, str | None] = {}
    credits: dict[str, float] = {}
    for question in questions:
        credits[question.id] = 0.0
        if question.id not in said:
            continue
        found = _extraction(said[question.id], question, rule, verdicts.get(question.id))
        extracted[question.id] = found
        if found is None and rule != "official":
            continue
        told = mathvista.normalise(found, question.facts)
        credits[question.id] = float(bool(question.answers) and told == question.answers[0])
    judged = sum(question.id in verdicts for question in questions)
    fields = {"judged": judged} if judged else {}
    given = credits if all(question.answers for question in questions) else None
    return result(name, questions, said, extracted, given, groups=_KINDS, fields=fields)


def _extraction(
    text: str, question: Question, rule: str, verdict: Mapping[str, Any] | None
) -> str | None:
    if verdict is not None and verdict.get("extraction") is not None:
        return str(verdict["extraction"])
    if rule == "official":
        return mathvista.official_extraction(text, question.facts)
    if rule == "vlforge":
        return mathvista.vlforge_extraction(text, question.facts)
    if question.facts["question_type"] == "multi_choice":
        return choices.vlmevalkit(text, letters_of(question.facts["choices"] or ()))
    return mathvista.official_extraction(text, question.facts)


_EXAMPLES = (
    ("Hint: Please answer the question requiring an integer answer and provide the final value, "
     "e.g., 1, 2, 3, at the end.\nQuestion: Which number is missing?",
     "The number missing in the sequence is 14.", "14"),
    ("Hint: Please answer the question requiring a floating-point number with one decimal place "
     "and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: What is the "
     "fraction of females facing the camera?",
     "The fraction of females facing the camera is 0.6, which means that six out of ten females "
     "in the group are facing the camera.", "0.6"),
    ("Hint: Please answer the question requiring a floating-point number with two decimal places "
     "and provide the final value, e.g., 1.23, 1.34, 1.45, at the end.\nQuestion: How much money "
     "does Luca need to buy a sour apple candy and a butterscotch candy? (Unit: $)",
     "Luca needs $1.45 to buy a sour apple candy and a butterscotch candy.", "1.45"),
    ("Hint: Please answer the question requiring a Python list as an answer and provide the final "
     "list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.\nQuestion: Between which two years does "
     "the line  graph saw its maximum peak?",
     "The line graph saw its maximum peak between 2007 and 2008.", "[2007, 2008]"),
    ("Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at "
     "the end.\nQuestion: What fraction of the shape is blue?\nChoices:\n(A) 3/11\n(B) 8/11\n"
     "(C) 6/11\n(D) 3/5", "The correct answer is (B) 8/11.", "B"),
)  # fmt: skip
"""MathVista's own demonstrations of an extraction."""
_DEMONSTRATED = "\n\n".join(
    f"{asked}\n\nModel response: {said}\n\nExtracted answer: {extracted}"
    for asked, said, extracted in _EXAMPLES
)
_READ = (
    "Please read the following example. Then extract the answer from the model response and "
    "type it at the end of the prompt."
)


def judging(question: Question, answer: str, rule: str) -> Judging | None:
    """Asks for the extraction that no rule reads; None where one does.

    The prompt is MathVista's, word for word: a judge's reply depends on it.
    """
    if mathvista.official_extraction(answer, question.facts) is not None:
        return None
    return _asked(question, answer)


def _asked(question: Question, answer: str) -> Judging:
    asked = f"{question.text}\n\n{answer}"
    reply = yield f"{_READ}\n\n{_DEMONSTRATED}\n\n{asked}\n\nExtracted answer: "
    return {"extraction": reply.strip()}
