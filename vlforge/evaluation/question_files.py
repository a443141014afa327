"""LLaVA's question files (JSON lines), and the other JSON that benchmarks come as."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.types import DataError

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."


def question_lines(
    path: Path, needed: Sequence[str] = ("question_id", "text")
) -> list[tuple[int, dict[str, Any]]]:
    """Line numbers and rows of a JSON-lines file; empty lines are passed over.

    Raises:
        DataError: no such file, a broken line, a row without a needed field, or no row.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            for name in needed:
                row[name]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: no question line ({error!r})") from None
        rows.append((number, row))
    if not rows:
        raise DataError(f"{path}: holds no question")
    return rows


def read_text(path: Path) -> str:
    """A benchmark's text file.

    Raises:
        DataError: it is not there or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such question file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def read_value(path: Path, kind: type = dict) -> Any:
    """A benchmark's JSON file.

    Raises:
        DataError: it is not there, is no JSON, or holds another kind of value.
    """
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error})") from None
    if not isinstance(value, kind):
        raise DataError(f"{path}: holds a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def without_suffix(text: str, suffix: str = SHORT_ANSWER) -> str:
    """The question alone: without a last line that asks for a kind of answer."""
    return text.removesuffix(suffix).rstrip("\n ") if text.endswith(suffix) else text


def lettered(asked: str, options: Mapping[str, str], suffix: str = LETTER_ANSWER) -> str:
    """`question`, `A. option`, …, and the request for a letter, a line each."""
    lines = [asked, *(f"{letter}. {text}" for letter, text in options.items()), suffix]
    return "\n".join(filter(None, lines))


def letters_of(texts: Sequence[Any]) -> dict[str, str]:
    """Options by letter, in order."""
    return {chr(ord("A") + place): str(text) for place, text in enumerate(texts)}


def options_of(given: Any, place: str) -> dict[str, str]:
    """Options by letter: of a list, of a list written as a string, or by letter already.

    Raises:
        DataError: a string that is no list.
    """
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            raise DataError(f"{place}: options {given[:40]!r} are no list") from None
    if isinstance(given, dict):
        return {str(letter): str(text) for letter, text in given.items()}
    return letters_of(given)
