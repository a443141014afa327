"""What a text says, taken out of it by a model: fields of one's own, keywords, events, passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up
from vlforge.ops.batch import Context, Item
from vlforge.ops.rows.tags import tagged, tags_of
from vlforge.ops.synthesis.replies import UnfitError, json_in, said
from vlforge.ops.synthesis.text_writing import (
    EitherWriting,
    TagWriting,
    missing,
    parts_of,
    pattern_of,
    pieces,
    plain_field,
    whole,
)
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.types import Caption, RecipeError, Row

_KINDS: Mapping[str, tuple[type[Any], ...]] = {
    "string": (str,), "number": (int, float), "integer": (int,), "boolean": (bool,),
    "array": (list,), "object": (dict,),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LlmExtractMapper(EitherWriting):
    """Have a model fill in the fields of a schema from a row, into the row's tags.

    `output_schema` says for each key what to take out: words, or a table with
    `description`, `type` (string, number, integer, boolean, array, object) and `enum`, which
    the value is then held to. `input_keys` are the fields that the model reads;
    `knowledge_grounding_key` (a field) or `knowledge_grounding_fixed` tell it what to know
    beforehand; the strategies cot and cot_shot let it think first, few_shot and cot_shot
    show `examples`. All keys go into the tag `meta_output_key`, or into one tag each where
    that is empty. What the text does not give is null; a row without any of its input gets
    nulls unasked. A reply with other keys, or a value that does not fit, is asked for again,
    then the row is dropped; with `compat: data_juicer` it gets nulls. Tokens and costs are
    counted by the endpoint, not in the row's tag `llm_semantic_usage` as in Data-Juicer.
    """

    input_keys: tuple[str, ...]
    output_schema: dict[str, Any]
    api_or_hf_model: str = "gpt-4o"
    is_hf_model: bool = False
    meta_output_key: str | None = "llm_extract"
    knowledge_grounding_key: str | None = None
    knowledge_grounding_fixed: str | None = None
    strategy: Literal["direct", "cot", "few_shot", "cot_shot"] | None = None
    examples: str | None = None

    prompt_name: ClassVar = "llm_extract"
    prompt_fields: ClassVar = ("text", "wanted", "grounding", "examples", "how")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output_schema or not self.input_keys:
            raise RecipeError("input_keys and output_schema name at least one field each")
        for key, wanted in self.output_schema.items():
            kind = wanted.get("type", "string") if isinstance(wanted, dict) else "string"
            if kind not in _KINDS:
                known = ", ".join(_KINDS)
                raise RecipeError(f"output_schema.{key}.type is {kind!r}; known: {known}")

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question for all fields of the schema."""
        text = self._input(item, context)
        if not text:
            return missing((text,))
        thinks = self.strategy in ("cot", "cot_shot")
        shows = self.strategy in ("few_shot", "cot_shot") and self.examples
        known = self.knowledge_grounding_fixed
        if not known and self.knowledge_grounding_key:
            known = plain_field(item, self.knowledge_grounding_key, context)
        prompt = self.prompt().fill(
            text=text,
            wanted="\n".join(f"- {key}: {_told(want)}" for key, want in self.output_schema.items()),
            grounding=f"Know beforehand: {known}" if known else "",
            examples=f"Examples:\n{self.examples}\n\n" if shows else "",
            how="Think step by step, then write" if thinks else "Reply with nothing but",
        )
        return [Asked.of(prompt)]

    def read(self, item: Item, place: int, reply: Caption) -> dict[str, Any]:
        """The values by key, in the schema's order."""
        found = json_in(reply.text, dict[str, Any])
        lacking = [key for key in self.output_schema if key not in found]
        if lacking:
            raise UnfitError(f"the reply lacks {', '.join(lacking)}")
        for key, wanted in self.output_schema.items():
            _check(key, found[key], wanted)
        return {key: found[key] for key in self.output_schema}

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the fields among its tags."""
        return self._tagged(item, values[0])

    def without_answer(self, item: Item) -> Row:
        """The row with null for every field."""
        return self._tagged(item, dict.fromkeys(self.output_schema))

    def _tagged(self, item: Item, found: dict[str, Any]) -> Row:
        told = {self.meta_output_key: found} if self.meta_output_key else found
        return tagged(item.row, **told)

    def _input(self, item: Item, context: Context) -> str:
        values = [(key, look_up(item.row, key)) for key in self.input_keys]
        texts = [(k, context.plain(v) if isinstance(v, str) else v) for k, v in values]
        return "\n".join(f"{k}: {v}" for k, v in texts if v is not None and v != "")


def _told(wanted: Any) -> str:
    if not isinstance(wanted, dict):
        return str(wanted)
    kind = f" ({wanted['type']})" if "type" in wanted else ""
    enum = f", one of {', '.join(map(str, wanted['enum']))}" if "enum" in wanted else ""
    return f"{wanted.get('description', 'as its name says')}{kind}{enum}"


def _check(key: str, value: Any, wanted: Any) -> None:
    if value is None or not isinstance(wanted, dict):
        return
    kind = wanted.get("type")
    is_odd = isinstance(value, bool) and kind in ("number", "integer")
    if kind and (is_odd or not isinstance(value, _KINDS[kind])):
        raise UnfitError(f"{key} is {value!r}, not of the type {kind}")
    if "enum" in wanted and value not in wanted["enum"]:
        raise UnfitError(f"{key} is {value!r}, none of {', '.join(map(str, wanted['enum']))}")


@dataclass(frozen=True, kw_only=True)
class ExtractKeywordMapper(TagWriting):
    """Have a model name the keywords of a text, into the tag `keyword`.

    The reply is a JSON list, or what `output_pattern` finds, parted at punctuation marks.
    `prompt_template` stands for the whole prompt; it shows `{input_text}` and
    `{completion_delimiter}`. A row whose replies do not fit is dropped; with
    `compat: data_juicer` it stays with none.
    """

    keyword_key: str = "keyword"
    prompt_template: str | None = None
    completion_delimiter: str | None = None
    output_pattern: str | None = None

    prompt_name: ClassVar = "extract_keyword"
    prompt_fields: ClassVar = ("text", "input_text", "completion_delimiter")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 0, is_verbose=True)
        if self.prompt_template is not None:
            self.turn("prompt_template", self.prompt_template)

    def tag_keys(self) -> tuple[str, ...]:
        """`keyword_key`."""
        return (self.keyword_key,)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question about the text."""
        if self.is_tagged(item):
            return None
        text = plain_field(item, self.text_key, context)
        prompt = self.prompt()
        if self.prompt_template is not None:
            prompt = prompt._replace(system=self.system_prompt or "", user=self.prompt_template)
        end = self.completion_delimiter or "<|COMPLETE|>"
        filled = prompt.fill(text=text, input_text=text, completion_delimiter=end)
        return missing((text,)) or [Asked.of(filled)]

    def read(self, item: Item, place: int, reply: Caption) -> list[str]:
        """The keywords, each once."""
        if self.output_pattern is not None:
            pattern = pattern_of("output_pattern", self.output_pattern, 0, is_verbose=True)
            found = [word for parts in parts_of(reply.text, pattern) for word in pieces(parts[0])]
        else:
            found = [word.strip() for word in json_in(reply.text, list[str])]
        if not any(found):
            raise UnfitError("the reply holds no keyword")
        return list(dict.fromkeys(word for word in found if word))

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with its keywords."""
        return self.told(item, values[0])

    def without_answer(self, item: Item) -> Row:
        """The row with no keywords."""
        return self.told(item, [])


class _Event(msgspec.Struct):
    event: str
    characters: list[str] = []


@dataclass(frozen=True, kw_only=True)
class ExtractEventMapper(TagWriting):
    """Make a row of each event that a model finds in a text, with the people who take part.

    The tags `event_description` and `relevant_characters` say it; everything else is the
    row's own. The reply is a JSON list, or what `output_pattern` (a verbose pattern with
    three groups: number, event, people parted by marks) reads. A text without events stays
    as it is. A row whose replies do not fit is dropped; with `compat: data_juicer` it stays
    as it is (Data-Juicer keeps such rows only where no row of the batch has an event).
    """

    event_desc_key: str = "event_description"
    relevant_char_key: str = "relevant_characters"
    output_pattern: str | None = None

    prompt_name: ClassVar = "extract_event"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 3, is_verbose=True)

    def tag_keys(self) -> tuple[str, ...]:
        """`event_desc_key`, `relevant_char_key`."""
        return self.event_desc_key, self.relevant_char_key

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question about the text."""
        if self.is_tagged(item):
            return None
        text = plain_field(item, self.text_key, context)
        return missing((text,)) or [Asked.of(self.prompt().fill(text=text))]

    def read(self, item: Item, place: int, reply: Caption) -> list[tuple[str, list[str]]]:
        """Events and their people."""
        if self.output_pattern is not None:
            pattern = pattern_of("output_pattern", self.output_pattern, 3, is_verbose=True)
            return [(told, pieces(who)) for _, told, who in parts_of(reply.text, pattern)]
        found = json_in(reply.text, list[_Event])
        return [(one.event.strip(), one.characters) for one in found if one.event.strip()]

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown:
        """A row per event; the row itself where there is none."""
        if not values[0]:
            return item.row
        return Grown(False, tuple(self.told(item, told, who) for told, who in values[0]))


@dataclass(frozen=True, kw_only=True)
class ExtractSupportTextMapper(TagWriting):
    """Have a model find the passage of a text that a summary is about, into `support_text`.

    The summary is the tag `summary_key`, e.g. of extract_event_mapper; rows without stay as
    they are. The passage has to stand in the text, white space and quotation marks aside:
    one that does not is asked for again, then the row is dropped. With `compat: data_juicer`
    any reply is taken, and without one the summary stands for it.
    """

    summary_key: str = "event_description"
    support_text_key: str = "support_text"

    prompt_name: ClassVar = "extract_support_text"
    prompt_fields: ClassVar = ("text", "summary")

    def tag_keys(self) -> tuple[str, ...]:
        """`support_text_key`."""
        return (self.support_text_key,)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question, where there is a summary."""
        summary = tags_of(item.row).get(self.summary_key)
        if self.is_tagged(item) or not isinstance(summary, str):
            return None
        text = plain_field(item, self.text_key, context)
        return missing((text,)) or [Asked.of(self.prompt().fill(text=text, summary=summary))]

    def read(self, item: Item, place: int, reply: Caption) -> str:
        """The passage."""
        if self.compat == "data_juicer":
            return said(reply.text) or str(tags_of(item.row)[self.summary_key])
        found = whole(reply.text)
        if not stands_in(found, look_up(item.row, self.text_key)):
            raise UnfitError("the reply is no passage of the text", "passage is not in the text")
        return found

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the passage."""
        return self.told(item, values[0])

    def without_answer(self, item: Item) -> Row:
        """The row with the summary for a passage."""
        summary = tags_of(item.row).get(self.summary_key)
        return self.told(item, summary) if isinstance(summary, str) else item.row


def stands_in(passage: str, text: Any) -> bool:
    """Whether a text holds a passage, white space aside."""
    return isinstance(text, str) and "".join(passage.split()) in "".join(text.split())
