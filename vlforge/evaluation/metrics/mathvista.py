"""MathVista: the question's hint, what an answer says, and when it is right.

Source: lupantech/MathVista@53d5258 (create_query, extract_answer, calculate_score), as
Mini-Gemini@769820c asks it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlforge.evaluation.metrics import choices
from vlforge.evaluation.metrics.vqa import edit_distance
from vlforge.evaluation.question_files import letters_of

_HINTS = {
    ("multi_choice", "text", None): "and provide the correct option letter, e.g., A, B, C, D",
    ("free_form", "integer", None): (
        "requiring an integer answer and provide the final value, e.g., 1, 2, 3"
    ),
    ("free_form", "float", 1): (
        "requiring a floating-point number with one decimal place and provide the final value, "
        "e.g., 1.2, 1.3, 1.4"
    ),
    ("free_form", "float", 2): (
        "requiring a floating-point number with two decimal places and provide the final value, "
        "e.g., 1.23, 1.34, 1.45"
    ),
    ("free_form", "list", None): (
        "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], "
        "[1.2, 1.3, 1.4]"
    ),
}
_BRACKETED = re.compile(r"\(([a-zA-Z])\)")
_QUOTED = re.compile(r'The answer is "(.*)"\.')
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+")
_LIST = re.compile(r"\[[^\[\]]*\]")


def query(problem: Mapping[str, Any]) -> str:
    """The words that ask a problem: a hint by the kind of answer, the question, the choices."""
    kind, answer_type = problem["question_type"], problem["answer_type"]
    precision = problem.get("precision")
    digits = int(precision) if answer_type == "float" and precision is not None else None
    hint = _HINTS.get((kind, answer_type, digits))
    if hint is None and kind == "multi_choice":
        hint = _HINTS["multi_choice", "text", None]
    lines = [f"Hint: Please answer the question {hint}, at the end."] if hint else []
    unit = problem.get("unit")
    asked = str(problem["question"])
    lines.append(f"Question: {asked} (Unit: {unit})" if unit else f"Question: {asked}")
    if problem.get("choices"):
        lines.append("Choices:")
        lines += [f"({c}) {text}" for c, text in letters_of(problem["choices"]).items()]
    return "\n".join(lines)


def official_extraction(text: str, problem: Mapping[str, Any]) -> str | None:
    """What the official code reads without asking a model; None where it would ask one.

    A choice's own text, a number that is all there is, `The answer is "…".`.
    """
    if text == "":
        return ""
    if problem["question_type"] == "multi_choice" and text in (problem.get("choices") or ()):
        return text
    cast = {"integer": int, "float": float}.get(problem["answer_type"])
    if cast is not None:
        try:
            return str(cast(text))
        except ValueError:
            pass
    quoted = _QUOTED.search(text)
    return quoted.group(1) if quoted else None


def vlforge_extraction(text: str, problem: Mapping[str, Any]) -> str | None:
    """Our rule without a model: the chosen letter, the last number, the last list."""
    said = official_extraction(text.strip(), problem)
    if said is not None:
        return said or None
    if problem["question_type"] == "multi_choice":
        return choices.vlforge(text, letters_of(problem.get("choices") or ()))
    if problem["answer_type"] in ("integer", "float"):
        numbers = _NUMBER.findall(text)
        return numbers[-1].replace(",", "").rstrip(".") if numbers else None
    if problem["answer_type"] == "list":
        lists = _LIST.findall(text)
        return lists[-1] if lists else None
    return text.strip() or None


def normalise(extraction: str | None, problem: Mapping[str, Any]) -> str | None:
    """An extracted answer as it is compared: a choice's text, or a number as Python writes it.

    A choice that is named neither by its letter nor by its text becomes the nearest one
    by edit distance, so that nothing said is still a choice: the official rule.
    """
    if problem["question_type"] == "multi_choice":
        return _choice(extraction or "", list(map(str, problem.get("choices") or ())))
    if extraction is None:
        return None
    try:
        if problem["answer_type"] == "integer":
            return str(int(float(extraction)))
        if problem["answer_type"] == "float":
            return str(round(float(extraction), int(problem["precision"])))
    except (ValueError, OverflowError, TypeError):
        return None
    return str(extraction) if problem["answer_type"] in ("list", "text") else None


def _choice(said: str, listed: Sequence[str]) -> str | None:
    said = said.strip()
    bracketed = _BRACKETED.findall(said)
    letter = bracketed[0].upper() if bracketed else said
    options = letters_of(listed)
    if letter in options:
        return options[letter]
    return min(listed, key=lambda text: edit_distance(letter, text)) if listed else None
