"""Q-Bench (A1, perception): low-level sight, in two to four options.

`questions` is `llvisionqa_dev.json` (or test, which has no answers), `images` the folder
of its pictures.

Sources: Q-Future/Q-Bench, LLaVA@c121f04 (model_vqa_qbench), EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_lines
from vlforge.evaluation.metrics.choices import EXTRACTORS
from vlforge.evaluation.question_files import letters_of, read_text, read_value
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import letters, result
from vlforge.types import DataError

PROTOCOLS = ("vlforge", "vlmevalkit", "lmms-eval")
_KNOWN = Protocols("qbench", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
CHOOSE = "Choose between one of the options as follows:"
CHOOSE_ZH = "在下列选项中选择一个:"
_LANGUAGES = ("auto", "en", "zh")


def answer_rows(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """LLaVA's and Mini-Gemini's answer file: the input's entries with `response`."""
    rows = ({**q.facts["row"], "response": said[q.id]} for q in questions if q.id in said)
    write_lines(target, rows)


EXPORTS = {"responses": answer_rows}


def matcher(questions: Sequence[Question]) -> Callable[[Mapping[str, Any]], str | None]:
    """Finds an answer row's question by picture and words: a picture may have several."""
    ids = {(question.group, question.asked): question.id for question in questions}
    return lambda row: ids.get((str(row.get("img_path")), str(row.get("question"))))


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions, asked as LLaVA does (`prompt: zh` in Chinese).

    Raises:
        DataError: a file that cannot be read, an entry that lacks a field, or another prompt.
    """
    if spec.prompt not in _LANGUAGES:
        raise DataError(f"qbench: prompt {spec.prompt!r} is unknown; known: en, zh")
    path = Path(spec.questions or spec.annotation or "")
    folder = Path(spec.images) if spec.images else path.parent
    found = []
    for number, row in enumerate(_entries(path)):
        try:
            image, asked = str(row["img_path"]), str(row["question"])
            options = letters_of(row["candidates"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: entry {number}: {error!r}") from None
        right = [letter for letter, text in options.items() if text == row.get("correct_ans")]
        choose = CHOOSE_ZH if spec.prompt == "zh" else CHOOSE
        listed = "".join(f"{letter}. {text}\n" for letter, text in options.items())
        found.append(
            Question(
                id=str(number),
                text=f"{asked}\n{choose}\n{listed}",
                images=(str(folder / image),),
                answers=tuple(right),
                options=options,
                group=image,
                labels={"type": _label(row, "type"), "concern": _label(row, "concern")},
                asked=asked,
                facts={"row": row},
            )
        )
    return found


def _entries(path: Path) -> list[Any]:
    """A JSON list, or JSON lines."""
    if path.suffix == ".jsonl":
        try:
            return [json.loads(line) for line in read_text(path).splitlines() if line.strip()]
        except ValueError as error:
            raise DataError(f"{path}: a broken line ({error})") from None
    entries: list[Any] = read_value(path, list)
    return entries


def _label(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return f"{name} {value}" if value is not None else ""


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Share of right letters, by type of question and by concern."""
    name = protocol_name(questions, rule)
    extracted, credits = letters(questions, said, EXTRACTORS[name.partition("@")[2]])
    if not all(question.answers for question in questions):
        return result(name, questions, said, extracted, None)
    return result(name, questions, said, extracted, credits, groups=("type", "concern"))
