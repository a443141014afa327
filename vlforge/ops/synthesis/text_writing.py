"""What operators share that have a model write about texts: names of models, templates, forms."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Grown, look_up
from vlforge.ops.batch import Context, Item
from vlforge.ops.rows.tags import tagged, tags_of
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.replies import UnfitError, json_in, said
from vlforge.ops.synthesis.reply_rules import is_refusal
from vlforge.ops.synthesis.writing import Writing
from vlforge.types import Drop, RecipeError, Row

_MARK = re.compile("[\u3000-\u303f\uff00-\uffef]|[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]")
_QUOTES = ("''", '""', "“”", "‘’", "``")
NO_TEXT = "no text to ask about"
"""Reason of rows whose field is missing, no text, or blank."""
REFUSED = "model refuses"
"""Reason of rows about which a model says that it cannot, or speaks of itself."""


@dataclass(frozen=True, kw_only=True)
class TextWriting(Writing):
    """A `Writing` about texts.

    `input_template` stands for the user's turn of the prompt. A `system_prompt` of one's own
    has to ask for the same form of reply, or comes with a pattern that reads another one.
    """

    input_template: str | None = None

    blank: ClassVar[str] = "text"
    """The field that `{}` means in `input_template`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.words()

    def prompt(self) -> Prompt:
        """The words, fields open, with the recipe's template where it has one."""
        found = super().prompt()
        if self.input_template is None:
            return found
        return found._replace(user=self.turn("input_template", self.input_template, self.blank))

    def turn(self, key: str, text: str, *blanks: str) -> str:
        """A recipe's template that shows the prompt's fields; `blanks` are what `{}` means."""
        return named(key, text, blanks, self.prompt_fields)

    def unread(self, item: Item, drop: Drop) -> Row | Grown | Drop:
        """The drop; as in Data-Juicer the row stays with what it puts there instead."""
        return self.without_answer(item) if self.compat == "data_juicer" else drop

    def without_answer(self, item: Item) -> Row | Grown:
        """The row as Data-Juicer leaves it where no reply could be used."""
        return item.row


@dataclass(frozen=True, kw_only=True)
class ApiWriting(TextWriting):
    """Asks the model `api_model`: one of the recipe's `endpoints`, of an API, or a folder."""

    api_model: str = "gpt-4o"

    def model_name(self) -> str:
        """`api_model`."""
        return self.api_model

    def is_api(self) -> bool:
        """Unless there is a folder of that name."""
        return not os.path.isdir(self.api_model)


@dataclass(frozen=True, kw_only=True)
class EitherWriting(TextWriting):
    """Asks the model `api_or_hf_model`: a folder or an endpoint if `is_hf_model`, else an API's."""

    api_or_hf_model: str = "Qwen/Qwen2.5-7B-Instruct"
    is_hf_model: bool = True
    enable_vllm: bool = False

    def model_name(self) -> str:
        """`api_or_hf_model`."""
        return self.api_or_hf_model

    def is_api(self) -> bool:
        """As the keys say, unless there is a folder of that name."""
        is_here = self.is_hf_model or self.enable_vllm
        return not is_here and not os.path.isdir(self.api_or_hf_model)

    @property
    def notes(self) -> tuple[str, ...]:
        """How vLLM is reached, where it is asked for."""
        return vllm_notes(self.api_or_hf_model, self.enable_vllm)


@dataclass(frozen=True, kw_only=True)
class LocalWriting(TextWriting):
    """Asks the model `hf_model`: a folder or one of the recipe's `endpoints`."""

    hf_model: str = "Qwen/Qwen2.5-7B-Instruct"
    enable_vllm: bool = False

    def model_name(self) -> str:
        """`hf_model`."""
        return self.hf_model

    @property
    def notes(self) -> tuple[str, ...]:
        """How vLLM is reached, where it is asked for."""
        return vllm_notes(self.hf_model, self.enable_vllm)


@dataclass(frozen=True, kw_only=True)
class TagWriting(ApiWriting):
    """Writes what a model says of a text among the row's tags; rows that have it stay as they are.

    With `drop_text` the text leaves the row.
    """

    drop_text: bool = False

    prompt_fields: ClassVar[tuple[str, ...]] = ("text",)

    def tag_keys(self) -> tuple[str, ...]:
        """The tags that are written."""
        raise NotImplementedError

    def is_tagged(self, item: Item) -> bool:
        """Whether all of them are there."""
        return set(self.tag_keys()) <= set(tags_of(item.row))

    def told(self, item: Item, *values: Any) -> Row:
        """The row with its tags, in the order of `tag_keys`."""
        row = tagged(item.row, **dict(zip(self.tag_keys(), values, strict=True)))
        return {k: v for k, v in row.items() if k != self.text_key} if self.drop_text else row


def vllm_notes(model: str, is_wanted: bool) -> tuple[str, ...]:
    """A line on `enable_vllm`; none for a name that looks like an endpoint's."""
    if not is_wanted or not re.search(r"[/\\]", model):
        return ()
    return (
        f"vLLM is reached through its server: run `vllm serve {model}`, name it under endpoints "
        "and here; a folder is opened by transformers",
    )


def plain_field(item: Item, key: str, context: Context) -> str:
    """A row's text field without the marks of pictures, "" where it is none."""
    value = look_up(item.row, key)
    return plain_words(value, context) if isinstance(value, str) else ""


def named(key: str, text: str, blanks: Sequence[str], fields: Sequence[str] = ()) -> str:
    """A recipe's template with `{}` named in order.

    Args:
        fields: what else it may show.

    Raises:
        RecipeError: it has a field that nothing fills in.
    """
    for name in blanks:
        text = text.replace("{}", f"{{{name}}}", 1)
    known = {*fields, *blanks}
    unknown = sorted(Prompt("", text).fields() - known)
    if unknown or "{}" in text:
        wrong = f"{{{unknown[0]}}}" if unknown else "{}"
        there = ", ".join(f"{{{name}}}" for name in sorted(known))
        raise RecipeError(f"{key}: nothing fills in {wrong}; there are {there}")
    return text


def filled(template: str, **fields: str) -> str:
    """A template with its `{fields}` in place; what a field holds is taken as it is."""
    return Prompt("", template).fill(**fields).user


@functools.lru_cache(maxsize=256)
def pattern_of(key: str, text: str, groups: int, is_verbose: bool = False) -> re.Pattern[str]:
    """A recipe's pattern for replies, `.` taking line ends too.

    Raises:
        RecipeError: no regular expression, or with fewer groups.
    """
    try:
        found = re.compile(text, re.DOTALL | (re.VERBOSE if is_verbose else 0))
    except re.error as error:
        raise RecipeError(f"{key} is {text!r}, no regular expression: {error}") from None
    if found.groups < groups:
        raise RecipeError(f"{key} is {text!r}; it needs {groups} groups in brackets")
    return found


def parts_of(text: str, pattern: re.Pattern[str]) -> list[tuple[str, ...]]:
    """The groups of each find of a recipe's pattern in a reply, stripped.

    Raises:
        UnfitError: there is none.
    """
    found = [
        tuple((group or "").strip() for group in match.groups() or (match.group(),))
        for match in pattern.finditer(said(text))
    ]
    if not found:
        raise UnfitError("the reply does not have the form that was asked for")
    return found


def pieces(text: str) -> list[str]:
    """What stands between punctuation marks, English and Chinese; the text where that is none."""
    found = [part.strip() for part in _MARK.split(text)]
    return [part for part in found if part] or [text]


def unquoted(text: str) -> str:
    """A text without the quotation marks around all of it."""
    text = text.strip()
    while len(text) > 1 and text[0] + text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text


def whole(text: str) -> str:
    """A reply that is all answer.

    Raises:
        UnfitError: it is empty, or the model speaks of itself.
    """
    found = unquoted(said(text))
    if not found:
        raise UnfitError("the reply is empty")
    if is_refusal(found):
        raise UnfitError("the reply speaks of its writer or refuses", REFUSED)
    return found


def two_in(text: str, kind: type[Any], marks: tuple[str, str], pattern: str | None) -> list[str]:
    """Two texts of a reply: by a recipe's pattern, as JSON, or behind two marks `【...】`.

    Args:
        kind: the msgspec Struct of the JSON form.

    Raises:
        UnfitError: they are not there, or empty.
    """
    if pattern is not None:
        found = list(parts_of(text, pattern_of("output_pattern", pattern, 2))[0][:2])
    elif marked := re.search(
        rf"【{marks[0]}】\s*(.*?)\s*【{marks[1]}】\s*(.*)", said(text), re.DOTALL
    ):
        found = [marked[1].strip(), marked[2].strip()]
    else:
        made = json_in(text, kind)
        found = [getattr(made, name).strip() for name in made.__struct_fields__]
    if not all(found):
        raise UnfitError("a part of the reply is empty")
    if any(map(is_refusal, found)):
        raise UnfitError("the reply speaks of its writer or refuses", REFUSED)
    return found


def missing(values: Sequence[str]) -> Drop | None:
    """The drop record of a row where one of some texts is empty."""
    return None if all(values) else Drop("", NO_TEXT)
