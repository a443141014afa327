"""ScienceQA: school questions with and without a picture, two to five options.

`annotation` is the folder with problems.json and pid_splits.json (its test split is
asked), `questions` LLaVA's `llava_test_CQM-A.json` where its order is wanted, `images` the
folder of `ID/image.png`.

Sources: LLaVA@c121f04 (eval_science_qa, convert_sqa_to_llava),
open-compass/VLMEvalKit@e8e78f0, EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import choices
from vlforge.evaluation.question_files import lettered, letters_of, read_value
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import letters, part_of, result
from vlforge.types import DataError

_LETTERS = "ABCDE"
_SAID = re.compile(r"The answer is ([A-Z]).")


def llava(text: str, options: choices.Options) -> str | None:
    """LLaVA's rule: a letter alone, `B. …`, or one "The answer is B" with a mark after it.

    A letter of no option is read all the same (and is wrong).
    """
    if text in tuple(_LETTERS):
        return text
    if len(text) >= 3 and text[0] in _LETTERS and text[1:3] == ". ":
        return text[0]
    found = _SAID.findall(text)
    return found[0] if len(found) == 1 else None


def lmms_eval(text: str, options: choices.Options) -> str | None:
    """lmms-eval's: the letter in any case, or `B.` at the beginning."""
    text = text.strip()
    if text.upper() in options:
        return text.upper()
    head = text[:1].upper()
    return head if head in options and text[1:2] == "." else None


RULES: dict[str, Callable[[str, choices.Options], str | None]] = {
    "vlforge": choices.vlforge,
    "llava": llava,
    "vlmevalkit": choices.vlmevalkit,
    "lmms-eval": lmms_eval,
}
PROTOCOLS = tuple(RULES)
_KNOWN = Protocols("scienceqa", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name


def read(spec: BenchmarkSpec) -> list[Question]:
    """The test split's questions, prompts as LLaVA-1.5 words them.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    if not spec.annotation:
        raise DataError("scienceqa: give annotation, the folder of problems.json")
    folder = Path(spec.annotation)
    folder = folder if folder.is_dir() else folder.parent
    problems = read_value(folder / "problems.json")
    splits = read_value(folder / "pid_splits.json")
    listed = _listed(Path(spec.questions)) if spec.questions else None
    ids = list(listed) if listed is not None else list(map(str, splits.get("test", ())))
    images = Path(spec.images) if spec.images else folder / "images" / "test"
    found = []
    for key in ids:
        if key not in problems:
            raise DataError(f"{folder / 'problems.json'}: has no problem {key!r}")
        prompt = listed[key] if listed is not None else None
        found.append(_question(key, problems[key], images, prompt, folder))
    return found


def _question(
    key: str, problem: Mapping[str, Any], images: Path, prompt: str | None, folder: Path
) -> Question:
    try:
        options = letters_of(problem["choices"])
        asked, answer, hint = str(problem["question"]), int(problem["answer"]), problem.get("hint")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'problems.json'}: problem {key}: {error!r}") from None
    image = problem.get("image")
    context = f"Context: {hint}\n{asked}" if hint else asked
    return Question(
        id=key,
        text=prompt or lettered(context, options),
        images=(str(images / key / str(image)),) if image else (),
        answers=(chr(ord("A") + answer),),
        options=options,
        labels={
            "picture": "with picture" if image else "without picture",
            "subject": str(problem.get("subject") or ""),
            "grade": str(problem.get("grade") or ""),
        },
        asked=asked,
    )


def _listed(path: Path) -> dict[str, str]:
    """Prompts by id of LLaVA's file, without its image mark."""
    found = {}
    for number, row in enumerate(read_value(path, list)):
        try:
            text = str(row["conversations"][0]["value"])
            found[str(row["id"])] = text.replace("<image>", "").strip()
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}: entry {number}: {error!r}") from None
    return found


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Share of right letters; `img_accuracy` is that of questions with a picture.

    VLMEvalKit and lmms-eval report the latter alone.
    """
    name = protocol_name(questions, rule)
    reads_letter = RULES[name.partition("@")[2]]
    extracted, credits = letters(questions, said, reads_letter)
    shown = [question for question in questions if question.images]
    if reads_letter is llava:
        # It tells by the answers' prompts which have a picture, so by those that are there.
        shown = [question for question in shown if question.id in said]
    fields = {"img_accuracy": part_of(shown, credits)["score"] if shown else None}
    kinds = ("picture", "subject", "grade")
    return result(name, questions, said, extracted, credits, groups=kinds, fields=fields)
