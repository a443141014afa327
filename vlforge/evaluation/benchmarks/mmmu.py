"""MMMU: college questions of thirty subjects with pictures, options or open.

`questions` is a parquet file or folder of Hugging Face's MMMU, or a jsonl with `id`,
`question_type`, `answer` and options (`options`, or `index2ans` as Mini-Gemini's answer
files have them); `annotation` is `answer_dict_val.json`. The latter alone scores
`{id: letter or text}` files, as MMMU's main_eval_only does.

Sources: MMMU-Benchmark/MMMU, Mini-Gemini@769820c, open-compass/VLMEvalKit@e8e78f0,
EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import choices, mmmu
from vlforge.evaluation.question_files import (
    LETTER_ANSWER,
    SHORT_ANSWER,
    options_of,
    question_lines,
    read_value,
)
from vlforge.evaluation.questions import IMAGE_MARK, Question, Score
from vlforge.evaluation.results import result
from vlforge.evaluation.tables import parquet_rows
from vlforge.types import DataError, RecipeError

PROTOCOLS = ("vlforge", "official", "vlmevalkit", "lmms-eval")
_KNOWN = Protocols("mmmu", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
PROMPTS = ("auto", "mgm", "vlmevalkit", "lmms-eval")
MAX_NEW_TOKENS = 128
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy", "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics",
        "Energy_and_Power", "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
_DOMAIN_OF = {subject: domain for domain, some in DOMAINS.items() for subject in some}
_SUBJECT = re.compile(r"^(?:dev|validation|test)_(.+)_\d+$")
_PICTURE = re.compile(r"<image (\d+)>")
_CHOICE = "multiple-choice"
_SEED = 42
"""The official code draws for what it cannot read, and begins with this seed."""
_OTHERS = {"B": "Other Answers"}
"""VLMEvalKit makes an open question one of two options: the answer, and this."""


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions with their answers.

    `prompt: mgm` shows the first picture alone, and none where an option is a picture;
    otherwise each stands where the text names it.

    Raises:
        DataError: files that cannot be read or do not belong together.
        RecipeError: a prompt nobody knows.
    """
    if spec.prompt not in PROMPTS:
        known = ", ".join(PROMPTS)
        raise RecipeError(f"mmmu has no prompt {spec.prompt!r}; known: {known}")
    right = read_value(Path(spec.annotation)) if spec.annotation else None
    if not spec.questions:
        if right is None:
            raise DataError("mmmu: give questions, annotation or both")
        return [_bare(key, entry, spec) for key, entry in right.items()]
    found = []
    for place, row in _rows(Path(spec.questions)):
        question = _question(row, spec.prompt, place)
        if right is not None:
            if question.id not in right:
                raise DataError(f"{place}: {question.id} is not in {spec.annotation}")
            question = replace(question, answers=_answers(right[question.id].get("ground_truth")))
        found.append(question)
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix == ".jsonl":
        for number, row in question_lines(path, ("id", "question_type")):
            yield f"{path}:{number}", row
        return
    yield from parquet_rows(path)


def _bare(key: str, entry: Mapping[str, Any], spec: BenchmarkSpec) -> Question:
    if "ground_truth" not in entry:
        raise DataError(f"{spec.annotation}: {key} has no ground_truth")
    is_choice = entry.get("question_type", _CHOICE) == _CHOICE
    answers = _answers(entry["ground_truth"])
    return Question(key, "", answers=answers, labels=_labels(key), facts={"open": not is_choice})


def _question(row: Mapping[str, Any], prompt: str, place: str) -> Question:
    key = str(row.get("id"))
    options = _options(row, place)
    asked = str(row.get("question", ""))
    is_open = row.get("question_type") != _CHOICE
    text = prompt_of(asked, options, prompt, is_open=is_open)
    text, images = _placed(text, row, options, prompt)
    return Question(
        id=key,
        text=text,
        images=images,
        answers=_answers(row.get("answer")),
        options={} if is_open else options,
        labels=_labels(key),
        asked=asked,
        facts={"open": is_open},
    )


def _options(row: Mapping[str, Any], place: str) -> dict[str, str]:
    """By letter; Hugging Face keeps them as a Python list in a string."""
    by_letter = row.get("index2ans")
    return options_of(by_letter if isinstance(by_letter, dict) else row.get("options") or [], place)


def _answers(value: Any) -> tuple[str, ...]:
    if value is None or value == "?":
        return ()
    listed = value
    if isinstance(value, str) and value.startswith("["):
        try:
            listed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            listed = value
    return tuple(map(str, listed)) if isinstance(listed, list) else (str(listed),)


def _labels(key: str) -> dict[str, str]:
    named = _SUBJECT.match(key)
    subject = named.group(1) if named else ""
    return {"domain": _DOMAIN_OF.get(subject, ""), "subject": subject}


def prompt_of(
    asked: str, options: Mapping[str, str], prompt: str = "auto", *, is_open: bool = False
) -> str:
    """The user's turn with `<image n>` where the question names a picture.

    The published wording's option lines each end a line and an empty one follows;
    lmms-eval writes `A.` for `(A)`, VLMEvalKit its own frame.
    """
    if is_open:
        return asked if prompt == "vlmevalkit" else f"{asked}\n{SHORT_ANSWER}"
    if prompt == "vlmevalkit":
        listed = "".join(f"{letter}. {text}\n" for letter, text in options.items())
        ask = "Please select the correct answer from the options above. \n"
        return f"Question: {asked}\nOptions:\n{listed}{ask}"
    shape = "{}. {}\n" if prompt == "lmms-eval" else "({}) {}\n"
    listed = "".join(shape.format(letter, text) for letter, text in options.items())
    return f"{asked}\n{listed}\n{LETTER_ANSWER}"


def _placed(
    text: str, row: Mapping[str, Any], options: Mapping[str, str], prompt: str
) -> tuple[str, tuple[str | bytes, ...]]:
    """The text with `<image>` for each picture, and the pictures in that order."""
    if prompt == "mgm":
        in_options = sum(len(_PICTURE.findall(option)) for option in options.values())
        first = _picture(row, 1)
        images = (first,) if first and in_options <= 1 else ()
        return text.replace("<image 1>", IMAGE_MARK) if images else text, images
    numbers = [int(number) for number in _PICTURE.findall(text)]
    found = {number: _picture(row, number) for number in dict.fromkeys(numbers)}
    shown = [found[number] for number in numbers if found[number]]

    def mark(match: re.Match[str]) -> str:
        return IMAGE_MARK if found[int(match.group(1))] else match.group()

    return _PICTURE.sub(mark, text), tuple(filter(None, shown))


def _picture(row: Mapping[str, Any], number: int) -> str | bytes | None:
    value = row.get(f"image_{number}")
    if isinstance(value, dict):
        return value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) else None


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Share of right answers, by domain and subject.

    `vlforge` reads letters by our rule and open answers by the official one, and what
    cannot be read is wrong. `official` draws an option for it, seed 42, and counts the
    draws as `drawn`. `lmms-eval` counts every open question as wrong, as it does.
    """
    name = protocol_name(questions, rule)
    rule = name.partition("@")[2]
    draws = random.Random(_SEED)
    extracted: dict[str, str | None] = {}
    credits: dict[str, float] = {}
    drawn = 0
    for question in questions:
        if question.id not in said:
            credits[question.id] = 0.0
            continue
        text = said[question.id]
        if question.facts.get("open"):
            extracted[question.id], right = _open(text, question, rule)
        else:
            letter = _letter(text, question, rule)
            if letter is None and rule == "official" and question.options:
                letter, drawn = draws.choice(list(question.options)), drawn + 1
            extracted[question.id], right = letter, letter in question.answers
        credits[question.id] = float(right)
    fields = {"drawn": drawn} if rule == "official" else {}
    has_answers = all(question.answers for question in questions)
    kinds = ("domain", "subject")
    given = credits if has_answers else None
    return result(name, questions, said, extracted, given, groups=kinds, fields=fields)


def _letter(text: str, question: Question, rule: str) -> str | None:
    if not question.options:  # answers that were parsed before: a letter each
        return text.strip() or None
    reads = {
        "vlforge": choices.vlforge,
        "official": mmmu.official_letter,
        "vlmevalkit": choices.vlmevalkit,
        "lmms-eval": mmmu.lmms_eval_letter,
    }[rule]
    return reads(text, question.options)


def _open(text: str, question: Question, rule: str) -> tuple[str | None, bool]:
    if rule == "vlmevalkit":
        answer = question.answers[0] if question.answers else ""
        letter = choices.vlmevalkit(text, {"A": answer} | _OTHERS)
        return letter, letter == "A"
    found = mmmu.open_answers(text)
    shown = " | ".join(map(str, found)) or None
    return shown, rule != "lmms-eval" and mmmu.open_is_right(found, question.answers)
