"""Dialogues about pictures as rows: questions, answers, and what rules find wrong with them.

A row holds a dialogue in its text, as `vlforge.data.formats.dj` reads and writes it and
`vlforge convert --to llava` turns it into conversations:
`[[human]]: <__dj__image>\\nquestion\\n[[gpt]]: answer\\n[[human]]: …\\n[[gpt]]: … <|__dj__eoc|>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from vlforge.data.formats.dj import ROLE
from vlforge.ops.batch import Context
from vlforge.ops.synthesis.replies import UnfitError, json_in, said
from vlforge.ops.synthesis.reply_rules import Lang, is_in, is_refusal
from vlforge.types import LLAVA_IMAGE_TOKEN

_LABEL = re.compile(r"^(?:question|answer|q|a|问题|问|答案|答)\s*\d*\s*[:：]\s*", re.IGNORECASE)


class Pair(msgspec.Struct, frozen=True):
    """A question and its answer, as a model's JSON has them."""

    question: str
    answer: str


_SPEAKER = re.compile(
    r"[\s*#>-]*(?:(question|q|human|user|问题|问)|(?:answer|a|assistant|gpt|答案|回答|答))"
    r"\s*\d*\s*[*]*\s*[:：][\s*]*",
    re.IGNORECASE,
)


def pairs_in(text: str) -> list[Pair]:
    """The pairs of a reply: JSON, or lines that begin with `Question:` and `Answer:`.

    The latter is what LLaVA's own prompts ask for, with `===` between the turns, and what
    models write that forget about JSON.

    Raises:
        UnfitError: neither.
    """
    try:
        return json_in(text, list[Pair])
    except UnfitError:
        found = _spoken(said(text))
        if not found:
            raise
        return found


def _spoken(text: str) -> list[Pair]:
    """The questions in lines that say so, each with the answer right behind it."""
    turns: list[tuple[bool, list[str]]] = []
    for line in text.splitlines():
        speaker = _SPEAKER.match(line)
        if speaker is not None:
            turns.append((speaker[1] is not None, [line[speaker.end() :]]))
        elif turns and line.strip(" =-"):
            turns[-1][1].append(line)
    return [
        Pair("\n".join(first).strip(), "\n".join(second).strip())
        for (asks, first), (follows, second) in pairwise(turns)
        if asks and not follows
    ]


class Wanted(NamedTuple):
    """What pairs have to be: at least so many stay, at most so many are taken."""

    least: int
    most: int
    lang: Lang = "en"
    longest_answer: int = 0
    """In characters; 0 is any."""
    shortest_answer: int = 0


def fit_pairs(pairs: Sequence[Pair], wanted: Wanted, context: Context) -> list[Pair]:
    """The pairs that rules find nothing wrong with.

    Raises:
        UnfitError: too few of them, or not in the language; tells the first fault.
    """
    fit: list[Pair] = []
    faults: list[str] = []
    seen: set[str] = set()
    for pair in pairs:
        clean = Pair(_LABEL.sub("", pair.question.strip()), _LABEL.sub("", pair.answer.strip()))
        fault = _fault(clean, wanted, context)
        asked = " ".join(clean.question.lower().split())
        if fault is None and asked in seen:
            fault = "a question is asked twice"
        if fault is None:
            seen.add(asked)
            fit.append(clean)
        else:
            faults.append(fault)
    if len(fit) < wanted.least:
        told = f" ({faults[0]})" if faults else ""
        raise UnfitError(f"{len(fit)} usable pairs where {wanted.least} are wanted{told}")
    if not is_in(" ".join(pair.question for pair in fit), wanted.lang):
        raise UnfitError(f"the questions are not in {_LANGUAGES[wanted.lang]}")
    return fit[: wanted.most]


_LANGUAGES = {"en": "English", "zh": "Chinese"}


def _fault(pair: Pair, wanted: Wanted, context: Context) -> str | None:
    if not pair.question or not pair.answer:
        return "a question or an answer is empty"
    if is_refusal(pair.answer) or is_refusal(pair.question):
        return "an answer refuses or speaks of its writer"
    if wanted.longest_answer and len(pair.answer) > wanted.longest_answer:
        return f"an answer has more than {wanted.longest_answer} characters"
    if len(pair.answer) < wanted.shortest_answer:
        return f"an answer has fewer than {wanted.shortest_answer} characters"
    marks = (context.image_token, context.eoc_token, LLAVA_IMAGE_TOKEN)
    texts = (pair.question, pair.answer)
    if any(mark in text for text in texts for mark in marks) or any(map(ROLE.search, texts)):
        return "a text holds a mark that means something else"
    return None


def dialogue(pairs: Sequence[Pair], pictures: int, context: Context) -> str:
    """The pairs as a row's text, the pictures before the first question."""
    lines = []
    shown = f"{context.image_token}\n" * pictures
    for pair in pairs:
        lines += [f"[[human]]: {shown}{pair.question}", f"[[gpt]]: {pair.answer}"]
        shown = ""
    return "\n".join(lines) + f" {context.eoc_token}"


def pairs_of(text: str, context: Context) -> list[Pair]:
    """The questions and answers of a row's text, without tokens; none in other texts."""
    if not ROLE.match(text):
        return []
    parts = ROLE.split(text)[1:]
    pairs: list[Pair] = []
    question: str | None = None
    for role, words in zip(parts[::2], parts[1::2], strict=True):
        plain = plain_words(words, context)
        if role == "human":
            question = plain
        elif role == "gpt" and question is not None:
            pairs.append(Pair(question, plain))
            question = None
    return pairs


def plain_words(text: str, context: Context) -> str:
    """A text without any picture's mark, so that it can stand in a question to a model."""
    return context.plain(text).replace(LLAVA_IMAGE_TOKEN, "").strip()


def captioned(captions: Sequence[str], context: Context) -> str:
    """A row's text of pictures, each with what is said of it after its own token."""
    told = [plain_words(caption, context) for caption in captions]
    shown = "".join(f"{context.image_token}\n{caption} " for caption in told)
    return shown + context.eoc_token
