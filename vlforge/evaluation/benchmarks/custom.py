"""Your own questions: a jsonl, json, csv, tsv or parquet of question, image and answer.

Columns are known by their usual names (`question`, `text`, `query`; `image`, `images`,
`image_path`; `answer`, `answers`, `label`, `gt_answer`; `options`, `choices`, or A to Z;
`id`, `question_id`, `index`; `category`). `metric` says what is right: `choice` (a letter),
`exact`, `contains`, `vqa` (soft accuracy, ten answers), `anls` (DocVQA, InfoVQA), `relaxed`
(ChartQA), `yes_no`; `auto` is `choice` where there are options and `exact` elsewhere.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import choices, vqa, yes_no
from vlforge.evaluation.question_files import (
    SHORT_ANSWER,
    lettered,
    options_of,
    read_text,
    read_value,
)
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import letters, result
from vlforge.evaluation.tables import parquet_rows, read_table
from vlforge.types import DataError, RecipeError

QUESTION = ("question", "text", "query", "prompt", "problem")
IMAGE = ("images", "image", "image_path", "img_path", "file_name", "picture")
ANSWER = ("answers", "answer", "label", "gt_answer", "ground_truth", "solution")
OPTIONS = ("options", "choices", "candidates")
ID = ("id", "question_id", "questionId", "index", "qid", "pid")
CATEGORY = ("category", "type", "subject", "task", "split")
"""Names that a column may have, the first that is there counts."""
PROMPTS = ("auto", "as-is")
_LONGEST_PATH = 1024


def _exact(text: str, answers: Sequence[str]) -> float:
    """Equal to one of the answers once both are normalised as M4C does."""
    return vqa.membership(text, answers)


def _contains(text: str, answers: Sequence[str]) -> float:
    said = f" {vqa.normalise_m4c(text)} "
    return float(any(f" {vqa.normalise_m4c(answer)} " in said for answer in answers))


def _yes_no(text: str, answers: Sequence[str]) -> float:
    said = yes_no.vlforge(text)
    return float(said is not None and said in {answer.strip().lower() for answer in answers})


def _relaxed(text: str, answers: Sequence[str]) -> float:
    return float(any(vqa.relaxed_accuracy(text.strip(), answer) for answer in answers))


CREDITS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": _exact,
    "contains": _contains,
    "vqa": vqa.soft_accuracy,
    "anls": vqa.anls,
    "relaxed": _relaxed,
    "yes_no": _yes_no,
}
METRICS = ("choice", *CREDITS)
PROTOCOLS = METRICS


def read(spec: BenchmarkSpec) -> list[Question]:
    """The rows as questions, in file order.

    Options are listed under the question, and a letter or a word is asked for
    (`prompt: as-is` leaves the question alone).

    Raises:
        DataError: a file that cannot be read, or a row without question; names it.
        RecipeError: a metric or prompt nobody knows.
    """
    if spec.metric not in ("auto", *METRICS):
        known = ", ".join(METRICS)
        raise RecipeError(f"custom has no metric {spec.metric!r}; known: {known}")
    if spec.prompt not in PROMPTS:
        raise RecipeError(f"custom has no prompt {spec.prompt!r}; known: {', '.join(PROMPTS)}")
    path = Path(spec.questions or spec.annotation or "")
    folder = Path(spec.images) if spec.images else path.parent
    found: dict[str, Question] = {}
    for number, (place, row) in enumerate(_rows(path)):
        question = _question(row, place, number, folder, spec)
        if question.id in found:
            raise DataError(f"{place}: id {question.id!r} stands twice")
        found[question.id] = question
    if not found:
        raise DataError(f"{path}: holds no question")
    return list(found.values())


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kind = path.suffix.lower()
    if kind in (".tsv", ".csv"):
        for number, row in enumerate(read_table(path, separator="\t" if kind == ".tsv" else ",")):
            yield f"{path}: row {number + 1}", row
    elif kind == ".parquet" or path.is_dir():
        yield from parquet_rows(path)
    elif kind == ".json":
        for number, row in enumerate(read_value(path, list)):
            yield f"{path}: entry {number}", row
    else:
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip():
                yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _parsed(line: str, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: a broken line ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: a {type(row).__name__}, where an object belongs")
    return row


def _question(
    row: Mapping[str, Any], place: str, number: int, folder: Path, spec: BenchmarkSpec
) -> Question:
    asked = _first(row, QUESTION)
    if asked is None:
        raise DataError(f"{place}: no question; it has: {', '.join(map(str, row))}")
    options = _options(row, place)
    answers = _listed(_first(row, ANSWER))
    if options:
        by_text = {text: letter for letter, text in options.items()}
        answers = tuple(by_text.get(answer, answer) for answer in answers)
    hint = str(row.get("hint") or "")
    text = str(asked)
    if spec.prompt == "auto" and options:
        text = lettered(f"{hint}\n{asked}" if hint else text, options)
    elif spec.prompt == "auto" and spec.metric != "contains":
        text = f"{asked}\n{SHORT_ANSWER}"
    key = _first(row, ID)
    return Question(
        id=str(number if key is None else key),
        text=text,
        images=tuple(_image(one, folder, place) for one in _pictures(row)),
        answers=answers,
        options=options,
        labels={name: str(row[name]) for name in CATEGORY if row.get(name)},
        asked=str(asked),
        facts={"metric": spec.metric},
    )


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _options(row: Mapping[str, Any], place: str) -> dict[str, str]:
    given = _first(row, OPTIONS)
    if given:
        return options_of(given, place)
    columns = (letter for letter in string.ascii_uppercase if row.get(letter) not in (None, ""))
    return {letter: str(row[letter]) for letter in columns}


def _listed(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return (value,)
    if isinstance(value, list | tuple):
        return tuple(str(one["answer"]) if isinstance(one, dict) else str(one) for one in value)
    return () if value is None else (str(value),)


def _pictures(row: Mapping[str, Any]) -> Sequence[Any]:
    value = _first(row, IMAGE)
    if isinstance(value, list | tuple):
        return value
    return () if value is None else (value,)


def _image(value: Any, folder: Path, place: str) -> str | bytes:
    """A path, bytes, Hugging Face's pair of both, or base64."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise DataError(f"{place}: its picture is a {type(value).__name__}")
    if len(value) <= _LONGEST_PATH:
        return str(folder / value)
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{place}: its picture is neither a path nor base64") from None


def knows(rule: str) -> bool:
    """Whether `rule` names a metric."""
    return rule.removeprefix("custom@") in ("auto", *METRICS)


def protocol_name(questions: Sequence[Question], rule: str) -> str:
    """`custom@anls`: the metric."""
    bare = rule.removeprefix("custom@")
    if not knows(rule):
        raise RecipeError(f"custom has no metric {rule!r}; known: {', '.join(METRICS)}")
    if bare == "auto" and questions:
        bare = str(questions[0].facts.get("metric", "auto"))
    if bare == "auto":
        bare = "choice" if questions and all(q.options for q in questions) else "exact"
    return f"custom@{bare}"


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """The mean of the metric, by every category that the rows have."""
    name = protocol_name(questions, rule)
    metric = name.partition("@")[2]
    if not all(question.answers for question in questions):
        return result(name, questions, said, dict(said), None)
    kinds = tuple(kind for kind in CATEGORY if any(q.labels_of(kind) for q in questions))
    if metric == "choice":
        extracted, credits = letters(questions, said, choices.vlforge)
    else:
        extracted = {key: text.strip() or None for key, text in said.items()}
        credit = CREDITS[metric]
        credits = {q.id: credit(said[q.id], q.answers) if q.id in said else 0.0 for q in questions}
    return result(name, questions, said, extracted, credits, groups=kinds)
