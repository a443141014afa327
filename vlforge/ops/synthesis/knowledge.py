"""Entities and relations of texts for a knowledge graph, asked for in several rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.entities import NAME, TOLD, TYPE, relation
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.replies import UnfitError, json_in, said
from vlforge.ops.synthesis.text_writing import (
    TagWriting,
    missing,
    pattern_of,
    pieces,
    plain_field,
    unquoted,
)
from vlforge.ops.synthesis.writing import Asked, Asks, converse, reference
from vlforge.types import Caption, Drop, RecipeError, Row, Turn

_ENTITY_PATTERN = r'\("entity"(.*?)\)'
_RELATION_PATTERN = r'\("relationship"(.*?)\)'
_ENTITY_PARTS, _RELATION_PARTS = 3, 5
Entity = tuple[str, str, str]
"""Name, type, description."""
Relation = tuple[str, str, str, tuple[str, ...], float]
"""Source, target, description, keywords, strength."""
Found = tuple[list[Entity], list[Relation]]


class _Entity(msgspec.Struct):
    name: str
    type: str = ""
    description: str = ""


class _Relation(msgspec.Struct):
    source: str
    target: str
    description: str = ""
    keywords: list[str] | str = []
    strength: float = 0.0


class _Graph(msgspec.Struct):
    entities: list[_Entity]
    relations: list[_Relation] = []


@dataclass(frozen=True, kw_only=True)
class ExtractEntityRelationMapper(TagWriting):
    """Have a model find the entities of a text and their relations, for a knowledge graph.

    The tags `entity` and `relation` are lists. After its first reply the model is asked up to
    `max_gleaning` times for what it missed; from the second time on only if it says that
    something is missing. What it names twice counts once, relations of entities that it did
    not name are left out, and all stands in the order of the replies (Data-Juicer's order
    differs from run to run).

    `prompt_template` stands for the whole prompt, with `{input_text}`, `{entity_types}` and
    the three delimiters; then, or with a pattern, replies are read as records
    `("entity"<|>name<|>type<|>description)` and `("relationship"<|>source<|>target
    <|>description<|>keywords<|>strength)`. A row whose first replies do not fit is dropped;
    with `compat: data_juicer` it stays with one entity and one relation of empty texts.
    """

    entity_types: tuple[str, ...] | None = None
    entity_key: str = "entity"
    relation_key: str = "relation"
    prompt_template: str | None = None
    tuple_delimiter: str | None = None
    record_delimiter: str | None = None
    completion_delimiter: str | None = None
    max_gleaning: int = 1
    continue_prompt: str | None = None
    if_loop_prompt: str | None = None
    entity_pattern: str | None = None
    relation_pattern: str | None = None

    prompt_name: ClassVar = "extract_entity_relation"
    prompt_fields: ClassVar = (
        "text", "input_text", "entity_types", "tuple_delimiter", "record_delimiter",
        "completion_delimiter",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_gleaning < 0:
            raise RecipeError(f"max_gleaning is {self.max_gleaning}; give 0 or more")
        self._patterns()
        if self.prompt_template is not None:
            self.turn("prompt_template", self.prompt_template)

    def tag_keys(self) -> tuple[str, ...]:
        """`entity_key`, `relation_key`."""
        return self.entity_key, self.relation_key

    def prompt(self) -> Prompt:
        """The words, or the recipe's template."""
        if self.prompt_template is None:
            return super().prompt()
        return Prompt(self.system_prompt or "", self.prompt_template)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """The first question about the text."""
        if self.is_tagged(item):
            return None
        text = plain_field(item, self.text_key, context)
        types = self.entity_types or ("organization", "person", "geo", "event")
        filled = self.prompt().fill(
            text=text,
            input_text=text,
            entity_types=", ".join(types),
            tuple_delimiter=self._delimiter,
            record_delimiter=self.record_delimiter or "##",
            completion_delimiter=self.completion_delimiter or "<|COMPLETE|>",
        )
        return missing((text,)) or [Asked.of(filled)]

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        asked = [self.asks(item, (), batch.context) for item in batch.items]
        found = self._converse(batch, asked, self._first, self.try_num)
        talks = {
            at: [*asked[at][0].turns, Turn("assistant", values[0][1])]  # type: ignore[index]
            for at, values in enumerate(found)
            if isinstance(values, list)
        }
        graphs = {at: [found[at][0][0]] for at in talks}
        for number in range(self.max_gleaning):
            if number:
                talks = self._those_with_more(batch, talks)
            talks = self._glean(batch, talks, graphs)
        return [
            self._stamped(item, [graphs[at]] if at in graphs else values, batch.context)  # type: ignore
            for at, (item, values) in enumerate(zip(batch.items, found, strict=True))
        ]

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with what all rounds found, each once."""
        entities: dict[Entity, None] = {}
        relations: dict[Relation, None] = {}
        for some, others in values[0]:
            entities |= dict.fromkeys(some)
            relations |= dict.fromkeys(others)
        names = {name.casefold() for name, _, _ in entities}
        if self.compat != "data_juicer":
            relations = {r: None for r in relations if {r[0].casefold(), r[1].casefold()} <= names}
        told = [dict(zip((NAME, TYPE, TOLD), entity, strict=True)) for entity in entities]
        links = [relation(*r[:3], list(r[3]), r[4]) for r in relations]
        if self.compat == "data_juicer" and not links:
            links = [relation("", "", "", [], 0.0)]
        return self.told(item, told, links)

    def without_answer(self, item: Item) -> Row:
        """The row with one entity and one relation of empty texts."""
        entity = {NAME: "", TYPE: "", TOLD: ""}
        return self.told(item, [entity], [relation("", "", "", [], 0.0)])

    def _converse(self, batch: Batch, asked: Sequence[Asks], read: Any, tries: int) -> list[Any]:
        model = reference(self.model_name(), self.server(), self.model_params, self.is_api())
        return converse(batch, type(self), model, asked, self.drawing(), tries, read)

    def _first(self, at: int, place: int, reply: Caption) -> tuple[Found, str]:
        found = self._graph(reply.text)
        if not found[0]:
            raise UnfitError("the reply names no entity")
        return found, reply.text

    def _more(self, at: int, place: int, reply: Caption) -> tuple[Found, str]:
        try:
            return self._graph(reply.text), reply.text
        except UnfitError:
            return ([], []), reply.text

    def _glean(
        self, batch: Batch, talks: dict[int, list[Turn]], graphs: dict[int, list[Found]]
    ) -> dict[int, list[Turn]]:
        """Ask for what is missing; the conversations with what was replied."""
        more = Turn("user", _words(self.continue_prompt, "extract_entity_relation_more"))
        asked = [
            [Asked((*talks[at], more))] if at in talks else None for at in range(len(batch.items))
        ]
        longer = {}
        for at, values in enumerate(self._converse(batch, asked, self._more, 1)):
            if isinstance(values, list):
                found, reply = values[0]
                graphs[at].append(found)
                longer[at] = [*talks[at], more, Turn("assistant", reply)]
        return longer

    def _those_with_more(self, batch: Batch, talks: dict[int, list[Turn]]) -> dict[int, list[Turn]]:
        question = Turn("user", _words(self.if_loop_prompt, "extract_entity_relation_loop"))
        asked = [
            [Asked((*talks[at], question))] if at in talks else None
            for at in range(len(batch.items))
        ]
        said_so = self._converse(batch, asked, lambda at, place, reply: said(reply.text), 1)
        return {
            at: talk
            for at, talk in talks.items()
            if isinstance(said_so[at], list)
            and unquoted(said_so[at][0]).strip(".!。 ").casefold() in ("yes", "是")
        }

    @property
    def _delimiter(self) -> str:
        return self.tuple_delimiter or "<|>"

    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        entity = self.entity_pattern or _ENTITY_PATTERN
        between = self.relation_pattern or _RELATION_PATTERN
        return (
            pattern_of("entity_pattern", entity, 1, is_verbose=True),
            pattern_of("relation_pattern", between, 1, is_verbose=True),
        )

    def _graph(self, text: str) -> Found:
        if self.prompt_template or self.entity_pattern or self.relation_pattern:
            return self._records(said(text))
        graph = json_in(text, _Graph)
        entities = [
            (e.name.strip(), e.type.strip(), e.description.strip())
            for e in graph.entities
            if e.name.strip()
        ]
        relations = [
            (
                r.source.strip(),
                r.target.strip(),
                r.description.strip(),
                tuple(pieces(r.keywords) if isinstance(r.keywords, str) else r.keywords),
                float(r.strength),
            )
            for r in graph.relations
        ]
        return entities, relations

    def _records(self, text: str) -> Found:
        entity_pattern, relation_pattern = self._patterns()
        entities, relations = [], []
        for parts in map(self._parts, entity_pattern.finditer(text)):
            if len(parts) == _ENTITY_PARTS:
                entities.append((parts[0], parts[1], parts[2]))
        for parts in map(self._parts, relation_pattern.finditer(text)):
            if len(parts) == _RELATION_PARTS and (strength := _number(parts[4])) is not None:
                words = tuple(pieces(parts[3]))
                relations.append((parts[0], parts[1], parts[2], words, strength))
        return entities, relations

    def _parts(self, record: re.Match[str]) -> list[str]:
        parts = [unquoted(part) for part in record[1].split(self._delimiter)]
        return [part for part in parts if part]


def _words(own: str | None, name: str) -> str:
    return read_prompt(name).user if own is None else own


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
