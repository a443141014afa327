"""MMMU: which option, or which number or words, does an answer give?

Source: MMMU-Benchmark/MMMU eval_utils, as Mini-Gemini@769820c runs it;
EvolvingLMMs-Lab/lmms-eval@75571cf where its own rule differs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_ENDS = ",.!?;:'"
_MARKS = frozenset(":,.!?;'")
_INDICATORS = (
    "could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ",
)  # fmt: skip
_SENTENCES = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_WORDS_FOR_TEXT = 5
"""An option's words are looked for in answers of more words than these."""


def official_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The official rule: `(B)`, else ` B `, else an option's words; the last of several.

    None where the official code draws an option at random.
    """
    padded = _padded(text)
    for shape in ("({})", " {} "):
        found = [letter for letter in options if shape.format(letter) in padded]
        if found:
            return _last(found, padded, [shape.format(letter) for letter in found])
    return _by_words(padded, options)


def lmms_eval_letter(text: str, options: Mapping[str, str]) -> str | None:
    """lmms-eval's rule: as the official one, but `B ` and `B.` need no space before them."""
    padded = _padded(text)
    found = [letter for letter in options if f"({letter})" in padded]
    if found:
        return _last(found, padded, [f"({letter})" for letter in found])
    for shape in ("{} ", "{}."):
        found = [letter for letter in options if shape.format(letter) in padded]
        if found:
            return _last(found, padded, [f" {letter} " for letter in found])
    return _by_words(padded, options)


def _padded(text: str) -> str:
    for mark in _ENDS:
        text = text.strip(mark)
    return f" {text} "


def _by_words(padded: str, options: Mapping[str, str]) -> str | None:
    lowered = padded.lower()
    if len(padded.split()) <= _WORDS_FOR_TEXT:
        return None
    found = [letter for letter, words in options.items() if words.lower() in lowered]
    return _last(found, lowered, [options[letter].lower() for letter in found]) if found else None


def _last(letters: Sequence[str], text: str, shapes: Sequence[str]) -> str:
    """The letter whose last occurrence is latest; the first of those that share a place."""
    places = [text.rfind(shape) for shape in shapes]
    return letters[places.index(max(places))]


def open_answers(text: str) -> list[float | str]:
    """What an answer to an open question says: key phrases and the numbers in them.

    Numbers are rounded to two decimals. Sorted, numbers first; the official code's
    order is that of a set.
    """
    said = _key_phrases(text)
    numbers_said = [number for phrase in said for number in _numbers(phrase)]
    found = [one for piece in (*said, *numbers_said) for one in normalise(piece)]
    numbers = sorted({one for one in found if isinstance(one, float)})
    return [*numbers, *sorted({one for one in found if isinstance(one, str)})]


def _key_phrases(text: str) -> list[str]:
    whole = text.strip().strip(".").lower()
    parts = _SENTENCES.split(whole)
    found = []
    for place, part in enumerate(parts):
        indicators = [*_INDICATORS, "="] if place == len(parts) - 1 else _INDICATORS
        tails = [part.split(one)[-1].strip() for one in indicators if one in part]
        # An empty tail counts for nothing yet: the next one replaces it.
        shortest = ""
        for tail in tails:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _MARKS:
            found.append(shortest)
    return found or [whole]


def _numbers(text: str) -> list[str]:
    return [number for shape in _NUMBERS for number in shape.findall(text)]


def normalise(text: str) -> list[float | str]:
    """A number rounded to two decimals, or small letters; one letter gets a space on each side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_is_right(said: Sequence[float | str], answers: Sequence[str]) -> bool:
    """Whether a right answer's words stand in what was said, or a number is equal."""
    right = [one for answer in answers for one in normalise(answer)]
    words = [one for one in right if isinstance(one, str)]
    for one in said:
        if isinstance(one, str) and any(word in one for word in words):
            return True
        if isinstance(one, float) and one in right:
            return True
    return False
