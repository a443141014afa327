"""Summing up batch rows by a model: what the tags of all joined rows say together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.group.rows import BATCH_META
from vlforge.ops.rows.tags import META
from vlforge.ops.synthesis.likeness import words_of
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.provenance import with_origin
from vlforge.ops.synthesis.replies import UnfitError, json_in
from vlforge.ops.synthesis.text_writing import (
    NO_TEXT,
    ApiWriting,
    filled,
    named,
    parts_of,
    pattern_of,
    pieces,
    whole,
)
from vlforge.ops.synthesis.writing import Asked, Asks, converse, reference
from vlforge.types import Caption, Drop, RecipeError, Row

_TOKENS_PER_WORD = 1.3
_DOC = "Piece:\n{text}\n"


@dataclass(frozen=True, kw_only=True)
class SummaryWriting(ApiWriting):
    """Asks about the texts that the tag `input_key` holds in the rows of a batch row.

    The answer goes to `__dj__batch_meta__` of the batch row, which is left as it is where
    the answer is there. Members without the tag are passed over. `max_token_num` bounds what
    is shown at once, counted as 1.3 tokens a word and one a Chinese sign (Data-Juicer asks
    the model's tokenizer).
    """

    input_key: str = "event_description"
    max_token_num: int | None = None

    kind: ClassVar = "aggregator"
    blank: ClassVar = "docs"

    def into(self) -> str:
        """The key of the answer."""
        raise NotImplementedError

    def texts_of(self, item: Item) -> list[str] | Drop | None:
        """What is summed up; None where that was done before."""
        done = item.row.get(BATCH_META)
        if isinstance(done, dict) and self.into() in done:
            return None
        tags = item.row.get(META)
        if not isinstance(tags, list):
            return Drop("", "no batch row", META, type(tags).__name__, "a list")
        found = [one.get(self.input_key) for one in tags if isinstance(one, dict)]
        texts = [text for text in found if isinstance(text, str) and text.strip()]
        return texts or Drop("", NO_TEXT)

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The batch row with the answer beside its fields."""
        before = item.row.get(BATCH_META)
        told = {**(before if isinstance(before, dict) else {}), self.into(): values[0]}
        return {**item.row, BATCH_META: told}

    def marked(self, row: Row, entry: Mapping[str, Any]) -> Row:
        """The entry stands beside the answer: a batch row's other fields are lists of its rows'."""
        return {**row, BATCH_META: with_origin(row[BATCH_META], dict(entry))}

    def limit(self) -> float:
        """Most tokens that are shown at once."""
        return math.inf if self.max_token_num is None else self.max_token_num

    def ask(self, batch: Batch, asked: Sequence[Asks], read: Any) -> list[Any]:
        """Put questions about batch rows to the model."""
        model = reference(self.model_name(), self.server(), self.model_params, self.is_api())
        return converse(batch, type(self), model, asked, self.drawing(), self.try_num, read)

    def summed(
        self, batch: Batch, texts: Sequence[list[str] | Drop | None], prompt: Prompt, doc: str
    ) -> list[Any]:
        """Texts of each row put together, round by round, until one is left.

        Returns:
            Per row a list of one text, its drop, or None.
        """
        left: list[Any] = list(texts)
        while any(isinstance(docs, list) and len(docs) > 1 for docs in left):
            groups = [
                portions(docs, self.limit()) if isinstance(docs, list) else [] for docs in left
            ]
            asked: list[Asks] = [
                [self._question(prompt, doc, group) for group in some if len(group) > 1] or None
                for some in groups
            ]
            found = self.ask(batch, asked, lambda at, place, reply: whole(reply.text))
            left = [
                values if isinstance(values, Drop) else _with_new(some, values) if some else docs
                for docs, some, values in zip(left, groups, found, strict=True)
            ]
        return left

    def _question(self, prompt: Prompt, doc: str, group: Sequence[str]) -> Asked:
        return Asked.of(prompt.fill(docs="\n".join(filled(doc, text=text) for text in group)))


def _with_new(groups: Sequence[Sequence[str]], values: Sequence[str] | None) -> list[str]:
    new = iter(values or ())
    return [next(new) if len(group) > 1 else group[0] for group in groups]


@dataclass(frozen=True, kw_only=True)
class NestedAggregator(SummaryWriting):
    """Have a model sum up the texts of a batch row, summaries of summaries where they are many.

    Texts that exceed `max_token_num` together are summed up in parts of about one size, at
    least two texts each, and these again. The summary goes to `output_key` (by default
    `input_key`) of `__dj__batch_meta__`. `sub_doc_template` says how a text is shown. A row
    whose replies do not fit is dropped; with `compat: data_juicer` it stays as it is.
    """

    output_key: str | None = None
    sub_doc_template: str | None = None

    prompt_name: ClassVar = "nested_aggregator"
    prompt_fields: ClassVar = ("docs", "sub_docs")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._doc()

    def into(self) -> str:
        """`output_key`, by default `input_key`."""
        return self.output_key or self.input_key

    def prompt(self) -> Prompt:
        """The words; Data-Juicer's templates say `{sub_docs}`."""
        return _named_docs(super().prompt())

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        texts = [self.texts_of(item) for item in batch.items]
        found = self.summed(batch, texts, self.prompt(), self._doc())
        return [
            self._stamped(item, values, batch.context)
            for item, values in zip(batch.items, found, strict=True)
        ]

    def _doc(self) -> str:
        if self.sub_doc_template is None:
            return _DOC
        return named("sub_doc_template", self.sub_doc_template, ("text",))


@dataclass(frozen=True, kw_only=True)
class EntityAttributeAggregator(SummaryWriting):
    """Have a model sum up what the texts of a batch row say about an attribute of an entity.

    In about `word_limit` words, into `output_key` of `__dj__batch_meta__`. Texts that exceed
    `max_token_num` together are asked about in parts, whose answers nested_aggregator's
    prompt puts together. `example_prompt` shows the model an example. Replies of another form
    than the bare summary are read by the first group of `output_pattern_template` (verbose,
    `{entity}` and `{attribute}` filled in). A row whose replies do not fit is dropped; with
    `compat: data_juicer` it gets an empty summary.
    """

    entity: str | None = None
    attribute: str | None = None
    output_key: str = "entity_attribute"
    word_limit: int = 100
    system_prompt_template: str | None = None
    example_prompt: str | None = None
    output_pattern_template: str | None = None

    prompt_name: ClassVar = "entity_attribute_aggregator"
    prompt_fields: ClassVar = ("docs", "sub_docs", "entity", "attribute", "word_limit", "example")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.entity or not self.attribute:
            raise RecipeError("entity and attribute must both be given")
        self._pattern()

    def into(self) -> str:
        """`output_key`."""
        return self.output_key

    def prompt(self) -> Prompt:
        """The words, with the recipe's system prompt."""
        found = _named_docs(super().prompt())
        template = self.system_prompt_template
        return found if template is None else found._replace(system=template)

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        asked = [self._asked(self.texts_of(item)) for item in batch.items]
        found = self.ask(batch, asked, self._summary)
        joined = read_prompt("nested_aggregator")
        found = self.summed(batch, found, joined, _DOC)
        return [
            self._stamped(item, values, batch.context)
            for item, values in zip(batch.items, found, strict=True)
        ]

    def without_answer(self, item: Item) -> Row:
        """The batch row with an empty summary."""
        return self.made(item, [""], Context())

    def _asked(self, texts: list[str] | Drop | None) -> Asks:
        if not isinstance(texts, list):
            return texts
        example = f"{self.example_prompt} " if self.example_prompt else ""
        told = {"entity": self.entity or "", "attribute": self.attribute or "", "example": example}
        prompt = self.prompt().fill(word_limit=str(self.word_limit), **told)
        return [
            Asked.of(prompt.fill(docs="\n\n".join(group)))
            for group in portions(texts, self.limit(), is_pairing=False)
        ]

    def _summary(self, at: int, place: int, reply: Caption) -> str:
        pattern = self._pattern()
        return whole(reply.text if pattern is None else parts_of(reply.text, pattern)[0][0])

    def _pattern(self) -> re.Pattern[str] | None:
        if self.output_pattern_template is None:
            return None
        names = {"entity": re.escape(str(self.entity)), "attribute": re.escape(str(self.attribute))}
        text = filled(self.output_pattern_template, **names)
        return pattern_of("output_pattern_template", text, 1, is_verbose=True)


@dataclass(frozen=True, kw_only=True)
class MostRelevantEntitiesAggregator(SummaryWriting):
    """Have a model rank who or what has most to do with an entity in the texts of a batch row.

    Entities of the type `query_entity_type`, the most important first, into `output_key` of
    `__dj__batch_meta__`. The texts are shown in order until `max_token_num` is reached. A
    name that stands in none of them is left out. Replies of another form than a JSON list are
    read by the first group of `output_pattern` (verbose), parted at punctuation marks. A row
    whose replies do not fit is dropped; with `compat: data_juicer` it gets an empty list, and
    names are taken as they are.
    """

    entity: str | None = None
    query_entity_type: str | None = None
    output_key: str = "most_relevant_entities"
    system_prompt_template: str | None = None
    output_pattern: str | None = None

    prompt_name: ClassVar = "most_relevant_entities_aggregator"
    prompt_fields: ClassVar = ("docs", "sub_docs", "entity", "entity_type")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.entity or not self.query_entity_type:
            raise RecipeError("entity and query_entity_type must both be given")
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 1, is_verbose=True)

    def into(self) -> str:
        """`output_key`."""
        return self.output_key

    def prompt(self) -> Prompt:
        """The words, with the recipe's system prompt."""
        found = _named_docs(super().prompt())
        template = self.system_prompt_template
        return found if template is None else found._replace(system=template)

    def asks(self, item: Item, files: Sequence[Any], context: Context) -> Asks:
        """One question about the first texts."""
        texts = self.texts_of(item)
        if not isinstance(texts, list):
            return texts
        shown = "\n\n".join(self._first(texts))
        kind = self.query_entity_type or ""
        filled_in = self.prompt().fill(docs=shown, entity=self.entity or "", entity_type=kind)
        return [Asked(Asked.of(filled_in).turns, about=shown)]

    def heard(self, item: Item, place: int, one: Any, reply: Caption, context: Context) -> Any:
        """The names that stand in the texts, each once."""
        if self.output_pattern is not None:
            pattern = pattern_of("output_pattern", self.output_pattern, 1, is_verbose=True)
            names = pieces(parts_of(reply.text, pattern)[0][0])
        else:
            names = [name.strip() for name in json_in(reply.text, list[str])]
        if self.compat != "data_juicer":
            names = [name for name in names if name and name in one.about and name != self.entity]
        if not names:
            raise UnfitError("the reply names no entity of the documents")
        return list(dict.fromkeys(names))

    def without_answer(self, item: Item) -> Row:
        """The batch row with an empty list."""
        return self.made(item, [[]], Context())

    def _first(self, texts: Sequence[str]) -> list[str]:
        found: list[str] = []
        room = self.limit()
        for text in texts:
            room -= tokens_in(text)
            if room < 0 and found:
                break
            found.append(text)
        return found


def _named_docs(found: Prompt) -> Prompt:
    return found._replace(user=found.user.replace("{sub_docs}", "{docs}"))


def tokens_in(text: str) -> float:
    """About how many tokens a text has."""
    words = words_of(text)
    signs = sum(len(word) == 1 and not word.isascii() for word in words)
    return signs + _TOKENS_PER_WORD * (len(words) - signs)


def portions(texts: Sequence[str], limit: float, is_pairing: bool = True) -> list[list[str]]:
    """Texts in parts of about one size, each within the limit where its texts are.

    Args:
        is_pairing: where no part has two texts, neighbours are put together nevertheless.
    """
    sizes = [tokens_in(text) for text in texts]
    total = sum(sizes)
    if total <= limit:
        return [list(texts)]
    wanted = total / (total // limit + 1)
    found: list[list[str]] = [[]]
    room = limit
    for text, size in zip(texts, sizes, strict=True):
        if found[-1] and (size > room or limit - room >= wanted):
            found.append([])
            room = limit
        found[-1].append(text)
        room -= size
    if is_pairing and len(found) == len(texts):
        return [list(texts[at : at + 2]) for at in range(0, len(texts), 2)]
    return found
