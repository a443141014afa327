"""TextVQA: reading words in pictures; soft accuracy against ten human answers.

Source: LLaVA model_vqa_loader and eval_textvqa, haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics.vqa import NORMALISERS
from vlforge.evaluation.question_files import question_lines
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.vqa_scores import score_soft, ten_answers
from vlforge.types import DataError, RecipeError

PROTOCOLS = tuple(NORMALISERS)
_OCR = "Reference OCR token: "
_SUFFIX = "Answer the question using a single word or phrase."
PROMPTS = ("auto", "llava", "mgm", "vlmevalkit", "lmms-eval")
"""Whose words ask. "auto", "llava" and "mgm" are those of the question file."""
_FOREIGN = ("vlmevalkit", "lmms-eval")
_OCR_BLOCK = re.compile(rf"{_OCR}.*?(?=\n{re.escape(_SUFFIX)}|\Z)\n?", re.DOTALL)


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions of LLaVA's question file, with their answers where an annotation is given.

    LLaVA's ids are the pictures': a picture's later questions get their line as well.
    Its answer file, whose rows hold the prompts, is read as the questions that it answers.
    `prompt: vlmevalkit` and `lmms-eval` ask in the words of those, without OCR tokens.

    Raises:
        RecipeError: a prompt that is none of `PROMPTS`.
        DataError: a file that cannot be read, a broken line, a question without
            annotation or with another number of answers than ten.
    """
    if spec.prompt not in PROMPTS:
        raise RecipeError(f"textvqa has no prompt {spec.prompt!r}; known: {', '.join(PROMPTS)}")
    path = Path(spec.questions)
    annotation = read_annotation(Path(spec.annotation)) if spec.annotation else None
    folder = Path(spec.images) if spec.images else path.parent
    found: list[Question] = []
    taken: set[str] = set()
    for number, row in question_lines(path):
        question_id, text = str(row["question_id"]), str(row.get("prompt") or row["text"])
        answers: tuple[str, ...] = ()
        if annotation is not None:
            found_answers = annotation.find(question_id, text)
            if found_answers is None:
                raise DataError(
                    f"{path}:{number}: question {question_id!r} {question_of(text)!r} is not in "
                    f"{spec.annotation}; do both files belong together?"
                )
            answers = found_answers
        image = row.get("image")
        found.append(
            Question(
                id=question_id if question_id not in taken else f"{question_id}#{number}",
                text=worded(text, spec),
                images=(str(folder / str(image)),) if image else (),
                answers=answers,
                group=question_id,
                asked=question_of(text),
                facts={"prompt": spec.prompt, "question_id": row["question_id"]},
            )
        )
        taken.add(question_id)
    return found


def knows(rule: str) -> bool:
    """Whether `rule` names a protocol of this benchmark."""
    return _bare(rule) in ("auto", *PROTOCOLS)


def protocol_name(questions: Sequence[Question], rule: str) -> str:
    """`textvqa@m4c+ocr`: the normaliser, whether the prompts carry OCR tokens, whose they are."""
    with_ocr = any(_OCR in question.text for question in questions)
    style = str(questions[0].facts.get("prompt", "")) if questions else ""
    whose = f"+prompt={style}" if style in _FOREIGN else ""
    return f"textvqa@{_rule(rule)}{'+ocr' if with_ocr else ''}{whose}"


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Mean credit; a question without prediction is wrong and counted."""
    return score_soft(protocol_name(questions, rule), _rule(rule), questions, said)


@dataclass
class Annotation:
    """Ten answers per annotated question, found by picture or question id and the words."""

    exact: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    of_picture: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)

    def find(self, key: str, prompt: str) -> tuple[str, ...] | None:
        """The answers to the question that `prompt` asks about picture or question `key`.

        First by the exact question, as LLaVA does; then, of the picture's questions,
        the longest that stands in the prompt, letter case and spacing aside.
        """
        answers = self.exact.get((key, question_of(prompt).lower()))
        if answers is not None:
            return answers
        squeezed = _squeeze(prompt)
        there = [q for q in self.of_picture.get(key, {}) if q and q in squeezed]
        return self.of_picture[key][max(there, key=len)] if there else None


def read_annotation(path: Path) -> Annotation:
    """TextVQA's annotation file.

    Raises:
        DataError: no such file, another format, or an entry without ten answers.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give TextVQA_0.5.1_val.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no TextVQA annotation ({error!r})") from None
    found = Annotation()
    for number, entry in enumerate(data):
        try:
            answers = ten_answers(entry["answers"], f"{path}: entry {number}")
            question = str(entry["question"])
            keys = [entry.get("question_id"), entry["image_id"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: entry {number}: {error!r}") from None
        for key in keys:
            if key is not None:
                found.exact[str(key), question.lower()] = answers
                found.of_picture.setdefault(str(key), {})[_squeeze(question)] = answers
    return found


def matcher(questions: Sequence[Question]) -> Callable[[Mapping[str, Any]], str | None]:
    """Finds the question that a row of LLaVA's answers answers: by picture and prompt."""
    known: dict[tuple[str, str], str] = {}
    for question in questions:
        known.setdefault((question.group, question.asked.lower()), question.id)

    def find(row: Mapping[str, Any]) -> str | None:
        prompt = row.get("prompt")
        if not isinstance(prompt, str):
            return None
        return known.get((str(row.get("question_id")), question_of(prompt).lower()))

    return find


def question_of(prompt: str) -> str:
    """The bare question of a prompt, in any of the shapes LLaVA's files have."""
    if prompt.startswith("OCR tokens: "):
        between = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if between:
            return between.group(1)
    lines = [line for line in prompt.split("\n") if not line.startswith(_OCR)]
    if len(lines) > 1 and lines[-1].strip() == _SUFFIX:
        lines = lines[:-1]
    return "\n".join(lines).strip()


def without_ocr(prompt: str) -> str:
    """The prompt without its OCR tokens."""
    if prompt.startswith("OCR tokens: "):
        return f"{question_of(prompt)}\n{_SUFFIX}"
    if prompt.startswith(_OCR):
        return prompt.partition("\n")[2]
    return _OCR_BLOCK.sub("", prompt).rstrip("\n")


def worded(prompt: str, spec: BenchmarkSpec) -> str:
    """The question file's prompt as the spec wants it asked.

    VLMEvalKit shows no OCR tokens; nor does lmms-eval unless `ocr` is asked for there, and
    it writes the question as a sentence: one capital, the rest in lower case.

    Sources: VLMEvalKit image_vqa, lmms-eval tasks/textvqa.
    """
    if spec.prompt not in _FOREIGN:
        return without_ocr(prompt) if spec.ocr == "remove" else prompt
    question = question_of(prompt)
    if spec.prompt == "lmms-eval":
        question = question.capitalize()
    return f"{question}\n{_SUFFIX}"


def _squeeze(text: str) -> str:
    return " ".join(text.lower().split())


def _bare(rule: str) -> str:
    return rule.removeprefix("textvqa@").partition("+")[0]


def _rule(rule: str) -> str:
    bare = _bare(rule)
    if bare == "auto":
        return "m4c"
    if bare not in PROTOCOLS:
        raise RecipeError(f"textvqa has no protocol {rule!r}; known: {', '.join(PROTOCOLS)}")
    return bare
