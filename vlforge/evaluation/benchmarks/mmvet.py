"""MM-Vet: open questions that need several capabilities at once; a judge grades each answer.

`annotation` is mm-vet.json, `questions` LLaVA's `llava-mm-vet.jsonl` where its order is
wanted. `eval judge` asks for the grades; a grade file of MM-Vet's own evaluator is read too.

Sources: yuweihao/MM-Vet, LLaVA@c121f04 (convert_mmvet_for_eval), EvolvingLMMs-Lab/
lmms-eval@75571cf, whose prompt asks for step by step reasoning first (`prompt: lmms-eval`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Judging, Verdicts, rule_of
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_text
from vlforge.evaluation.question_files import question_lines, read_value
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import part_of, result
from vlforge.inference.endpoint.config import ChatRequest
from vlforge.types import DataError, RecipeError

PROTOCOLS = ("official", "vlmevalkit")
"""VLMEvalKit asks the same with temperatures of its own."""
PROMPTS = ("auto", "lmms-eval")
MAX_NEW_TOKENS = 1024
TRIES = 5
_REASONING = (
    "First please perform reasoning, and think step by step to provide best answer to the "
    "following question: \n\n"
)
_MEME = (
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the "
    "countries Iceland and Greenland are misleading. Despite its name, Iceland is known for its "
    "beautiful green landscapes, while Greenland is mostly covered in ice and snow. The meme is "
    "saying that the person has trust issues because the names of these countries do not "
    "accurately represent their landscapes. | "
)
_GRADE = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the "
    "prediction. <AND> in the ground truth means it is totally right only when all elements in "
    "the ground truth are present in the prediction, and <OR> means it is totally right when any "
    "one element in the ground truth is present in the prediction. The correctness score is 0.0 "
    "(totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just "
    "complete the last space of the correctness score.\n\n"
    "Question | Ground truth | Prediction | Correctness\n--- | --- | --- | ---\n"
    "What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0\n"
    f"{_MEME}The meme talks about Iceland and Greenland. It's pointing out that despite their "
    "names, Iceland is not very icy and Greenland isn't very green. | 0.4\n"
    f"{_MEME}The meme is using humor to point out the misleading nature of Iceland's and "
    "Greenland's names. Iceland, despite its name, has lush green landscapes while Greenland is "
    "mostly covered in ice and snow. The text 'This is why I have trust issues' is a playful way "
    "to suggest that these contradictions can lead to distrust or confusion. The humor in this "
    "meme is derived from the unexpected contrast between the names of the countries and their "
    "actual physical characteristics. | 1.0\n"
)
"""MM-Vet's own words: grades depend on them."""
_DIGIT = "\nPredict the correctness of the answer (digit): "


def submission(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """What MM-Vet's evaluator takes: `{"v1_0": answer, …}`.

    Source: LLaVA scripts/convert_mmvet_for_eval.py.
    """
    rows = {question.id: said[question.id] for question in questions if question.id in said}
    write_text(target, json.dumps(rows, indent=2, ensure_ascii=False))


EXPORTS = {"submission": submission}


def verdict_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The mean of an evaluator's grades: its file keeps a list, one of each run."""
    grades = row.get("score")
    if isinstance(grades, list) and grades:
        return {"grade": sum(map(float, grades)) / len(grades), "grades": grades}
    return None


def matcher(questions: Sequence[Question]) -> Any:
    """LLaVA's answers have the number alone: 0 is `v1_0`."""
    known = {question.id for question in questions}

    def find(row: Mapping[str, Any]) -> str | None:
        key = f"v1_{row.get('question_id')}"
        return key if key in known else None

    return find


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions with their answers and capabilities.

    Raises:
        DataError: files that cannot be read or do not belong together.
        RecipeError: a prompt nobody knows.
    """
    if not spec.annotation:
        raise DataError("mmvet: give annotation, mm-vet.json")
    if spec.prompt not in PROMPTS:
        raise RecipeError(f"mmvet has no prompt {spec.prompt!r}; known: {', '.join(PROMPTS)}")
    path = Path(spec.annotation)
    folder = Path(spec.images) if spec.images else path.parent / "images"
    before = _REASONING if spec.prompt == "lmms-eval" else ""
    found = {}
    for key, row in read_value(path).items():
        try:
            asked, answer = str(row["question"]), str(row["answer"])
            found[key] = Question(
                id=str(key),
                text=before + asked,
                images=(str(folder / str(row["imagename"])),),
                answers=(answer,),
                labels={"capability": tuple(map(str, row.get("capability", ())))},
                asked=asked,
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: {key}: {error!r}") from None
    if not spec.questions:
        return list(found.values())
    listed = []
    for number, row in question_lines(Path(spec.questions)):
        key = f"v1_{row['question_id']}"
        if key not in found:
            raise DataError(f"{spec.questions}:{number}: {key} is not in {path}")
        listed.append(found[key])
    return listed


def knows(rule: str) -> bool:
    """Whether `rule` names a protocol of this benchmark."""
    return rule.removeprefix("mmvet@") in ("auto", *PROTOCOLS)


def protocol_name(questions: Sequence[Question], rule: str) -> str:
    """`mmvet@official`; `+reasoning` where the prompt asks for it."""
    thinks = any(question.text.startswith(_REASONING) for question in questions)
    return f"mmvet@{rule_of('mmvet', PROTOCOLS, rule)}{'+reasoning' if thinks else ''}"


def judging(question: Question, answer: str, rule: str) -> Judging | None:
    """Asks for a grade of 0 to 1; an empty answer is asked about as well, as MM-Vet does."""
    return _graded(question, answer, rule)


def _graded(question: Question, answer: str, rule: str) -> Judging:
    """Up to five tries; what is no number then is no grade (the original counts 0.0)."""
    right = question.answers[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    prompt = f"{_GRADE}\n" + " | ".join((question.asked, right, answer, ""))
    for attempt in range(TRIES):
        asked = prompt + _DIGIT if attempt and rule.startswith("official") else prompt
        request = ChatRequest.of_text(
            asked, max_tokens=3, temperature=0.5 * attempt, seed=attempt or None
        )
        reply = yield request
        try:
            grade = float(reply.split(" ")[0].strip())
        except ValueError:
            continue
        if 0.0 <= grade <= 1.0:
            return {"grade": grade, "reply": reply}
    return {"grade": None, "reply": reply}


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """The mean grade, by capability and by combination of capabilities.

    Without verdicts there is no score. An answer without a grade counts 0 and as
    unparsed. `std` is over the runs of a grade file that has several.
    """
    name = protocol_name(questions, rule)
    grades = {key: verdict.get("grade") for key, verdict in verdicts.items()}
    extracted = {key: None if grade is None else f"{grade:g}" for key, grade in grades.items()}
    if not verdicts:
        return result(name, questions, said, dict.fromkeys(said), None)
    credits = {q.id: float(grades.get(q.id) or 0.0) for q in questions}
    fields: dict[str, Any] = {"combinations": _combinations(questions, credits)}
    runs = [list(map(float, row["grades"])) for row in verdicts.values() if "grades" in row]
    if runs and len(runs[0]) > 1 and len({len(one) for one in runs}) == 1:
        fields["std"] = _deviation([sum(one) / len(questions) for one in zip(*runs, strict=True)])
    return result(name, questions, said, extracted, credits, groups=("capability",), fields=fields)


def _combinations(
    questions: Sequence[Question], credits: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    members: dict[str, list[Question]] = {}
    for question in questions:
        key = " + ".join(sorted(question.labels_of("capability")))
        members.setdefault(key, []).append(question)
    return {key: part_of(some, credits) for key, some in members.items()}


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5)
