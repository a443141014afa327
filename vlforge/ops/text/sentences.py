"""Mappers that part texts into sentences."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vlforge.ops.base import TextMapper
from vlforge.ops.text.punkt import built_in, from_folder
from vlforge.types import RecipeError

Splitter = Callable[[str], list[str]]

# Each step parts at a mark unless a closing quote follows; it uses up the character behind, so
# of three marks in a row the second one no longer counts. One of its signs must be in the line.
_STEPS = tuple(
    (signs, re.compile(f"({mark})([^’”])"))
    for signs, mark in (
        (("",), "[.。！!？?]"),
        (("......",), r"\.{6}"),
        (("……",), "…{2}"),
        (("’", "”"), "[.。！!？?{6}…2][’”]"),
    )
)
_MARK_INSIDE = re.compile("[.。！!？?…][^’”]|[{6}2][’”][^’”]|[.。！!？?…][’”][^’”]")
_NOT_WORDS = re.compile(r"[^a-zA-Z0-9\u4e00-\u9fa5\n\t ]")


@dataclass(frozen=True, kw_only=True)
class RemoveRepeatSentencesMapper(TextMapper):
    """Keep the first of each repeated sentence of a text.

    Sentences end with `. ! ?` or their Chinese forms, an ellipsis, or the line. They
    are compared without outer blanks, in small letters if `lowercase`, and without
    all but Chinese characters, ASCII letters and digits if
    `ignore_special_character`; those with fewer than `min_repeat_sentence_length`
    characters then always stay. `tokenizer` is another splitter, a Python function
    or the text of a lambda such as `"lambda text: text.split('; ')"`; its sentences
    are put together with a blank.
    """

    lowercase: bool = False
    ignore_special_character: bool = True
    min_repeat_sentence_length: int = 2
    tokenizer: Callable[[str], list[str]] | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tokenizer, str):
            _function(self.tokenizer)

    def rewrite(self, text: str) -> str:
        """The text without repeats."""
        if self.tokenizer is None and "\n" not in text and not _MARK_INSIDE.search(text):
            return text
        seen: set[str] = set()
        return "\n".join(self._first_ones(line, seen) for line in text.split("\n"))

    def _first_ones(self, line: str, seen: set[str]) -> str:
        kept = []
        for sentence in self._sentences(line) if line else ():
            compared = sentence.strip()
            if self.lowercase:
                compared = compared.lower()
            if self.ignore_special_character:
                compared = _NOT_WORDS.sub("", compared)
            if len(compared) < self.min_repeat_sentence_length:
                kept.append(sentence)
            elif compared not in seen:
                seen.add(compared)
                kept.append(sentence)
        return "".join(kept)

    def _sentences(self, line: str) -> list[str]:
        if self.tokenizer is None:
            return rough_sentences(line)
        split = _function(self.tokenizer) if isinstance(self.tokenizer, str) else self.tokenizer
        first, *others = split(line) or [""]
        return [first, *(s if s[:1].isspace() else f" {s}" for s in others)]


@dataclass(frozen=True, kw_only=True)
class SentenceSplitMapper(TextMapper):
    """Write one sentence per line.

    `lang` is en, fr, pt or es. Data-Juicer downloads NLTK's data for it; here nothing
    is downloaded: with `punkt_dir`, a folder of NLTK's `punkt_tab` data, the
    sentences are those of NLTK 3.10. Without, the same algorithm works with a short
    list of abbreviations of our own, so some sentences part elsewhere.
    """

    lang: Literal["en", "fr", "pt", "es"] = "en"
    punkt_dir: str | None = None

    def __post_init__(self) -> None:
        if self.punkt_dir is not None:
            from_folder(self.punkt_dir, self.lang)

    def rewrite(self, text: str) -> str:
        """The sentences, joined by line feeds."""
        if self.punkt_dir is None:
            return "\n".join(built_in(self.lang).sentences(text))
        return "\n".join(from_folder(self.punkt_dir, self.lang).sentences(text))


def rough_sentences(line: str) -> list[str]:
    """The parts of a line that end with a mark, blanks kept at their beginnings."""
    for signs, step in _STEPS:
        if any(sign in line for sign in signs):
            line = step.sub(r"\1\n\2", line)
    return line.split("\n")


@functools.lru_cache(maxsize=16)
def _function(source: str) -> Splitter:
    """The function that a lambda's text means.

    Raises:
        RecipeError: it is no lambda of one argument.
    """
    try:
        parsed = ast.parse(source.strip(), mode="eval")
    except SyntaxError as error:
        raise RecipeError(f"tokenizer {source!r} is no Python expression: {error}") from None
    if not isinstance(parsed.body, ast.Lambda) or len(parsed.body.args.args) != 1:
        raise RecipeError(f"tokenizer {source!r} is no lambda of one argument")
    made: Splitter = eval(compile(parsed, "<tokenizer>", "eval"), {})
    return made
