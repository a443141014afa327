"""SEED-Bench: 19 thousand four-way choices about pictures and videos.

`annotation` is SEED-Bench.json, `questions` LLaVA's jsonl where its order and prompts are
wanted, `images` the picture folder (videos as their middle frames, as LLaVA cuts them).

Sources: LLaVA@c121f04 (convert_seed_for_submission), EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_lines
from vlforge.evaluation.metrics import choices
from vlforge.evaluation.question_files import (
    lettered,
    letters_of,
    question_lines,
    read_value,
)
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import letters, result
from vlforge.types import DataError


def llava(text: str, options: choices.Options) -> str | None:
    """LLaVA's rule: the answer is the letter and nothing else."""
    return text if text in options else None


def lmms_eval(text: str, options: choices.Options) -> str | None:
    """lmms-eval's rule: the first letter."""
    head = text.strip()[:1].upper()
    return head if head in options else None


RULES: dict[str, Callable[[str, choices.Options], str | None]] = {
    "vlforge": choices.vlforge,
    "llava": llava,
    "vlmevalkit": choices.vlmevalkit,
    "lmms-eval": lmms_eval,
}
PROTOCOLS = tuple(RULES)
_KNOWN = Protocols("seedbench", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name


def upload(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """The leaderboard's JSON lines `{"question_id", "prediction"}`; unanswered ones are left out.

    Source: LLaVA scripts/convert_seed_for_submission.py.
    """
    answered = (question for question in questions if question.id in said)
    write_lines(target, ({"question_id": q.id, "prediction": said[q.id]} for q in answered))


EXPORTS = {"upload": upload}


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions with their answers.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    if not spec.annotation:
        raise DataError("seedbench: give annotation, SEED-Bench.json")
    path = Path(spec.annotation)
    value = read_value(path)
    kinds = {str(number): str(kind) for kind, number in value.get("question_type", {}).items()}
    folder = Path(spec.images) if spec.images else path.parent
    found: dict[str, Question] = {}
    for number, row in enumerate(value.get("questions", ())):
        question = _question(row, kinds, folder, f"{path}: question {number}")
        found[question.id] = question
    if not found:
        raise DataError(f"{path}: holds no question")
    return list(found.values()) if not spec.questions else _in_order(spec, found)


def _question(
    row: Mapping[str, Any], kinds: Mapping[str, str], folder: Path, place: str
) -> Question:
    try:
        key, answer = str(row["question_id"]), str(row["answer"])
        options = letters_of([row[f"choice_{letter}"] for letter in "abcd"])
    except KeyError as error:
        raise DataError(f"{place}: has no {error}") from None
    kind = str(row.get("question_type_id", ""))
    asked = str(row.get("question", ""))
    image = row.get("data_id")
    return Question(
        id=key,
        text=lettered(asked, options),
        images=(str(folder / str(image)),) if image else (),
        answers=(answer,),
        options=options,
        labels={"type": kinds.get(kind, kind), "data": str(row.get("data_type", ""))},
        asked=asked,
    )


def _in_order(spec: BenchmarkSpec, known: Mapping[str, Question]) -> list[Question]:
    path = Path(spec.questions)
    folder = Path(spec.images) if spec.images else path.parent
    found = []
    for number, row in question_lines(path):
        key = str(row["question_id"])
        if key not in known:
            raise DataError(f"{path}:{number}: question {key!r} is not in {spec.annotation}")
        images = (str(folder / str(row["image"])),) if row.get("image") else known[key].images
        found.append(replace(known[key], text=str(row["text"]), images=images))
    return found


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Share of right letters, by type of question and for pictures and videos apart."""
    name = protocol_name(questions, rule)
    extracted, credits = letters(questions, said, RULES[name.partition("@")[2]])
    return result(name, questions, said, extracted, credits, groups=("type", "data"))
