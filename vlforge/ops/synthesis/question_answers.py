"""New questions and answers: from a text, or after the pattern of examples."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.likeness import rouge_l, words_of
from vlforge.ops.synthesis.picture_rows import Pair
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.replies import UnfitError, json_in, said
from vlforge.ops.synthesis.reply_rules import is_refusal
from vlforge.ops.synthesis.text_writing import (
    LocalWriting,
    filled,
    missing,
    named,
    parts_of,
    pattern_of,
    plain_field,
)
from vlforge.ops.synthesis.writing import Asked, Asks, request_key
from vlforge.types import Caption, RecipeError, Row

_SPOKEN = r"(?:Human|User)\s*[:：](.*?)Assistant\s*[:：](.*?)(?=(?:Human|User)\s*[:：]|\Z)"
_MARKED = r"【问题】(.*?)【回答】(.*?)(?=【问题】|\Z)"
_PAIR = "Question: {query}\nAnswer: {response}\n"
_EXAMPLE = "Example:\n{pairs}\n"
_MADE_FOR_IT = "doc2qa"
Dialogue = tuple[tuple[str, str], ...]
"""Rounds of question and answer."""


@dataclass(frozen=True, kw_only=True)
class GenerateQaFromTextMapper(LocalWriting):
    """Make a row of each question and answer that a model finds in a text.

    At most `max_num` of a text; the new rows keep the fields of the old one, which goes. The
    reply is JSON, lines of `Human:` and `Assistant:`, or what `output_pattern` reads by its
    two groups. Models called `…doc2qa…`, like the default, were trained to continue the bare
    text and get it bare; so does any with `compat: data_juicer`. Pairs that repeat one of
    the same text or are empty are left out. A text without pairs is dropped with the
    reason.
    """

    hf_model: str = "alibaba-pai/pai-qwen1_5-7b-doc2qa"
    max_num: int | None = None
    output_pattern: str | None = None
    query_key: str = "query"
    response_key: str = "response"

    prompt_name: ClassVar = "generate_qa_from_text"
    prompt_fields: ClassVar = ("text", "how_many")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_num is not None and self.max_num < 1:
            raise RecipeError(f"max_num is {self.max_num}; give at least 1, or leave it out")
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 2)

    def prompt(self) -> Prompt:
        """The words; the bare text for models that were made for it."""
        is_own = self.prompt_file or self.input_template or self.system_prompt
        is_bare = _MADE_FOR_IT in self.hf_model.lower() or self.compat == "data_juicer"
        return Prompt("", "{text}") if is_bare and not is_own else super().prompt()

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question about the text."""
        text = plain_field(item, self.text_key, context)
        many = f"at most {self.max_num}" if self.max_num else "as many as the text answers"
        return missing((text,)) or [Asked.of(self.prompt().fill(text=text, how_many=many))]

    def read(self, item: Item, place: int, reply: Caption) -> list[tuple[str, str]]:
        """The pairs in order."""
        return rounds_in(reply.text, self.output_pattern, _SPOKEN)[: self.max_num]

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Grown:
        """A row per pair; the row itself goes."""
        keys = self.query_key, self.response_key
        rows = [_with(item.row, dict(zip(keys, pair, strict=True))) for pair in values[0]]
        return Grown(False, tuple(rows))


@dataclass(frozen=True, kw_only=True)
class GenerateQaFromExamplesMapper(LocalWriting):
    """Write a new question and answer into each row, after the pattern of seed examples.

    `seed_file` holds examples, a line of JSON each: `{"messages": [{"role": "user",
    "content": …}, {"role": "assistant", …}, …]}`. Each row is shown `example_num` of them,
    drawn by seed and row, so the rows that come in only say how many are wanted (their
    other fields stay). Of several rounds the last is query and response, those before are
    `history_key`. A dialogue whose ROUGE-L with any seed example is above
    `similarity_threshold` is asked for again, then dropped.

    Data-Juicer compares with the examples shown only, by words between blanks (a Chinese
    text is one word to it); here Chinese signs count one by one. Where its rows get empty
    fields, ours are dropped; `compat: data_juicer` brings the empty fields back.
    """

    seed_file: str = ""
    example_num: int = 3
    similarity_threshold: float = 0.7
    example_template: str | None = None
    qa_pair_template: str | None = None
    output_pattern: str | None = None
    query_key: str = "query"
    response_key: str = "response"
    history_key: str = "history"

    prompt_name: ClassVar = "generate_qa_from_examples"
    prompt_fields: ClassVar = ("examples",)
    blank: ClassVar = "examples"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 2)
        found = len(seed_dialogues(self.seed_file))
        if not 1 <= self.example_num <= found:
            raise RecipeError(
                f"example_num is {self.example_num}; {self.seed_file} has {found} examples"
            )
        self._pair()
        self._example()

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One request, with examples that the row's name draws."""
        pick = random.Random(request_key(context.seed, self.prompt_name, item.uid, -1))
        shown = pick.sample(seed_dialogues(self.seed_file), self.example_num)
        pair, example = self._pair(), self._example()
        told = [
            filled(example, pairs="".join(filled(pair, query=q, response=a) for q, a in one))
            for one in shown
        ]
        return [Asked.of(self.prompt().fill(examples="\n".join(told)))]

    def read(self, item: Item, place: int, reply: Caption) -> list[tuple[str, str]]:
        """The rounds of the new dialogue."""
        found = rounds_in(reply.text, self.output_pattern, _MARKED)
        near = nearest_seed(tuple(found), self.seed_file)
        if near > self.similarity_threshold:
            wrong = f"the dialogue is too near to an example (ROUGE-L {near:.2f})"
            raise UnfitError(wrong, "too near to an example")
        return found

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the new dialogue."""
        *before, (query, response) = values[0]
        history = [list(pair) for pair in before]
        told = {self.query_key: query, self.response_key: response, self.history_key: history}
        return _with(item.row, told)

    def without_answer(self, item: Item) -> Row:
        """The row with an empty dialogue."""
        told: dict[str, Any] = {self.query_key: "", self.response_key: "", self.history_key: []}
        return _with(item.row, told)

    def _pair(self) -> str:
        template = self.qa_pair_template
        if template is None:
            return _PAIR
        return named("qa_pair_template", template, ("query", "response"))

    def _example(self) -> str:
        template = self.example_template
        return _EXAMPLE if template is None else named("example_template", template, ("pairs",))


def _with(row: Row, fields: dict[str, Any]) -> Row:
    for key, value in fields.items():
        row = replaced(row, key, value)
    return row


def rounds_in(text: str, pattern: str | None, spoken: str) -> list[tuple[str, str]]:
    """The questions and answers of a reply, repeats and empty ones left out.

    Args:
        pattern: the recipe's own, None for JSON.
        spoken: a pattern of the other form that is read.

    Raises:
        UnfitError: there are none.
    """
    marked = pattern_of("output_pattern", pattern or spoken, 2)
    if pattern is not None or marked.search(said(text)):
        found = [(parts[0], parts[1]) for parts in parts_of(text, marked)]
    else:
        found = [(p.question.strip(), p.answer.strip()) for p in json_in(text, list[Pair])]
    usable: dict[str, str] = {}
    for question, answer in found:
        if question and answer and not is_refusal(answer):
            usable.setdefault(question, answer)
    if not usable:
        raise UnfitError("the reply holds no questions with answers")
    return list(usable.items())


@functools.lru_cache(maxsize=8)
def seed_dialogues(file: str) -> tuple[Dialogue, ...]:
    """The examples of a file.

    Raises:
        RecipeError: no such file, a line that is none, or nothing in it.
    """
    if not file:
        raise RecipeError("seed_file must be given: a file with a line of JSON per example")
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is no UTF-8 text"
        raise RecipeError(f"seed_file {file}: {why}") from None
    found = [_dialogue(file, at, line) for at, line in enumerate(lines, 1) if line.strip()]
    usable = tuple(dialogue for dialogue in found if dialogue)
    if not usable:
        raise RecipeError(f"seed_file {file} holds no questions with answers")
    return usable


def _dialogue(file: str, at: int, line: str) -> Dialogue:
    try:
        messages = [(m["role"], m["content"]) for m in json.loads(line)["messages"]]
    except (ValueError, KeyError, TypeError):
        wanted = '{"messages": [{"role": "user", "content": "…"}, …]}'
        raise RecipeError(f"seed_file {file} line {at} is not {wanted}") from None
    rounds, asked = [], None
    for role, content in messages:
        asked = content if role == "user" else asked
        if role == "assistant" and asked:
            rounds.append((str(asked), str(content)))
    return tuple(rounds)


@functools.lru_cache(maxsize=8)
def _seed_words(file: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(words_of(_flat(dialogue))) for dialogue in seed_dialogues(file))


def nearest_seed(dialogue: Dialogue, file: str) -> float:
    """The highest ROUGE-L of a dialogue with any example of a file."""
    words = words_of(_flat(dialogue))
    return max(rouge_l(words, seed) for seed in _seed_words(file))


def _flat(dialogue: Dialogue) -> str:
    return "\n".join(text for pair in dialogue for text in pair)
