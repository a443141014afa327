"""Who and what a text speaks of, and how they are related, found by a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from vlforge.data.images import ImageFile
from vlforge.ops.base import look_up
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.extraction import stands_in
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.replies import UnfitError, json_in, said
from vlforge.ops.synthesis.text_writing import (
    TagWriting,
    filled,
    missing,
    parts_of,
    pattern_of,
    plain_field,
    unquoted,
)
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.types import Caption, RecipeError, Row

NAME, TYPE, TOLD = "entity_name", "entity_type", "entity_entity_description"
SOURCE, TARGET, RELATION, WORDS, STRENGTH = (
    "relation_source_entity", "relation_target_entity", "relation_description",
    "relation_keywords", "relation_strength",
)  # fmt: skip
"""Keys of entities and relations among the tags, as Data-Juicer writes them."""
_DEMO_GROUPS, _NICKNAME_GROUPS = 2, 6


class _Attribute(msgspec.Struct):
    description: str
    passages: list[str] = []


@dataclass(frozen=True, kw_only=True)
class ExtractEntityAttributeMapper(TagWriting):
    """Have a model say what a text tells of attributes of entities, with the passages.

    Each of `query_entities` is asked about with each of `query_attributes`. Four tags of one
    length come of it: the entities, the attributes, the descriptions and the lists of
    passages; of what the text does not tell the description is empty. Passages that do not
    stand in the text are left out; with `require_support_demos` a description needs one.
    Replies of another form are read by `attr_pattern_template` (one group, `{attribute}`
    filled in) and `demo_pattern` (two groups: number, passage), with a
    `system_prompt_template` that asks for it. A row with an unfit reply is dropped; with
    `compat: data_juicer` it stays with empty descriptions.
    """

    query_entities: tuple[str, ...] = ()
    query_attributes: tuple[str, ...] = ()
    entity_key: str = "main_entities"
    attribute_key: str = "attributes"
    attribute_desc_key: str = "attribute_descriptions"
    support_text_key: str = "attribute_support_texts"
    system_prompt_template: str | None = None
    attr_pattern_template: str | None = None
    demo_pattern: str | None = None
    require_support_demos: bool = True

    prompt_name: ClassVar = "extract_entity_attribute"
    prompt_fields: ClassVar = ("text", "entity", "attribute")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.query_entities or not self.query_attributes:
            raise RecipeError("query_entities and query_attributes name at least one each")
        for attribute in self.query_attributes:
            self._pattern(attribute)
        if self.demo_pattern is not None:
            pattern_of("demo_pattern", self.demo_pattern, _DEMO_GROUPS, is_verbose=True)

    def tag_keys(self) -> tuple[str, ...]:
        """The keys of entities, attributes, descriptions and passages."""
        return (
            self.entity_key, self.attribute_key, self.attribute_desc_key, self.support_text_key,
        )  # fmt: skip

    def prompt(self) -> Prompt:
        """The words, with the recipe's system prompt."""
        return _with_system(super().prompt(), self.system_prompt_template)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """A question per entity and attribute."""
        if self.is_tagged(item):
            return None
        text = plain_field(item, self.text_key, context)
        prompt = self.prompt()
        return missing((text,)) or [
            Asked.of(prompt.fill(text=text, entity=entity, attribute=attribute))
            for entity, attribute in self._pairs()
        ]

    def read(self, item: Item, place: int, reply: Caption) -> tuple[str, list[str]]:
        """A description and its passages."""
        pattern = self._pattern(self._pairs()[place][1])
        if pattern is not None:
            told = parts_of(reply.text, pattern)[0][0]
            shown = self._shown(reply.text)
        else:
            found = json_in(reply.text, _Attribute)
            told, shown = found.description.strip(), found.passages
        text = look_up(item.row, self.text_key)
        if self.compat != "data_juicer":
            shown = [one for one in map(unquoted, shown) if one and stands_in(one, text)]
        if told and not shown and self.require_support_demos:
            wrong = "no passage of the reply stands in the text"
            raise UnfitError(wrong, "passage is not in the text")
        return told, shown if told else []

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with four tags of one length."""
        entities, attributes = zip(*self._pairs(), strict=True)
        told = [description for description, _ in values]
        return self.told(item, list(entities), list(attributes), told, [s for _, s in values])

    def without_answer(self, item: Item) -> Row:
        """The row with empty descriptions."""
        return self.made(item, [("", [])] * len(self._pairs()), Context())

    def _pairs(self) -> list[tuple[str, str]]:
        return [
            (entity, about) for entity in self.query_entities for about in self.query_attributes
        ]

    def _pattern(self, attribute: str) -> re.Pattern[str] | None:
        if self.attr_pattern_template is None:
            return None
        text = filled(self.attr_pattern_template, attribute=re.escape(attribute))
        return pattern_of("attr_pattern_template", text, 1, is_verbose=True)

    def _shown(self, reply: str) -> list[str]:
        if self.demo_pattern is None:
            return []
        pattern = pattern_of("demo_pattern", self.demo_pattern, _DEMO_GROUPS, is_verbose=True)
        return [found[2].strip() for found in pattern.finditer(said(reply)) if found[2].strip()]


class _Nickname(msgspec.Struct):
    speaker: str
    person: str
    nickname: str


@dataclass(frozen=True, kw_only=True)
class ExtractNicknameMapper(TagWriting):
    """Have a model find the nicknames by which people of a text call each other.

    The tag `nickname` is a list of relations from speaker to person, the nickname their
    description. A nickname that is the person's name, or that does not stand in the text, is
    left out; a text without any has an empty list. Replies of another form are read by
    `output_pattern` (a verbose pattern with six groups: number, speaker, person, both again,
    nickname). A row whose replies do not fit is dropped; with `compat: data_juicer` it stays,
    and has, as a text without nicknames, one relation of empty texts.
    """

    nickname_key: str = "nickname"
    output_pattern: str | None = None

    prompt_name: ClassVar = "extract_nickname"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, _NICKNAME_GROUPS, is_verbose=True)

    def tag_keys(self) -> tuple[str, ...]:
        """`nickname_key`."""
        return (self.nickname_key,)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question about the text."""
        if self.is_tagged(item):
            return None
        text = plain_field(item, self.text_key, context)
        return missing((text,)) or [Asked.of(self.prompt().fill(text=text))]

    def read(self, item: Item, place: int, reply: Caption) -> list[tuple[str, str, str]]:
        """Speaker, person, nickname; each once."""
        if self.output_pattern is not None:
            key, groups = "output_pattern", _NICKNAME_GROUPS
            pattern = pattern_of(key, self.output_pattern, groups, is_verbose=True)
            found = [
                (one, other, name)
                for _, one, other, again, twice, name in parts_of(reply.text, pattern)
                if (one, other) == (again, twice)
            ]
        else:
            told = json_in(reply.text, list[_Nickname])
            found = [(n.speaker.strip(), n.person.strip(), n.nickname.strip()) for n in told]
        text = look_up(item.row, self.text_key)
        is_theirs = self.compat == "data_juicer"
        return [
            one
            for one in dict.fromkeys(found)
            if all(one) and one[1] != one[2] and (is_theirs or stands_in(one[2], text))
        ]

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with a relation per nickname."""
        if not values[0] and self.compat == "data_juicer":
            return self.without_answer(item)
        return self.told(
            item,
            [relation(one, other, name, ["nickname"], None) for one, other, name in values[0]],
        )

    def without_answer(self, item: Item) -> Row:
        """The row with one relation of empty texts."""
        return self.told(item, [relation("", "", "", [], None)])


def relation(
    source: str, target: str, told: str, words: list[str], strength: float | None
) -> dict[str, Any]:
    """A relation as it stands among the tags."""
    return {SOURCE: source, TARGET: target, RELATION: told, WORDS: words, STRENGTH: strength}


class _Relation(msgspec.Struct):
    relation: str
    reasoning: str = ""


@dataclass(frozen=True, kw_only=True)
class RelationIdentityMapper(TagWriting):
    """Have a model say what `target_entity` is to `source_entity`, into the tag `role_relation`.

    Both must be given. The reply is JSON, or its last group in `output_pattern_template` (a
    verbose pattern, `{entity1}` and `{entity2}` filled in). A row whose replies do not fit
    is dropped; with `compat: data_juicer` it stays with an empty relation.
    """

    source_entity: str | None = None
    target_entity: str | None = None
    output_key: str = "role_relation"
    system_prompt_template: str | None = None
    output_pattern_template: str | None = None

    prompt_name: ClassVar = "relation_identity"
    prompt_fields: ClassVar = ("text", "entity1", "entity2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source_entity or not self.target_entity:
            raise RecipeError("source_entity and target_entity must both be given")
        self._pattern()

    def tag_keys(self) -> tuple[str, ...]:
        """`output_key`."""
        return (self.output_key,)

    def prompt(self) -> Prompt:
        """The words, with the recipe's system prompt."""
        return _with_system(super().prompt(), self.system_prompt_template)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question about the two entities."""
        if self.is_tagged(item):
            return None
        text = plain_field(item, self.text_key, context)
        return missing((text,)) or [Asked.of(self.prompt().fill(text=text, **self._entities()))]

    def read(self, item: Item, place: int, reply: Caption) -> str:
        """The relation."""
        pattern = self._pattern()
        if pattern is not None:
            found = parts_of(reply.text, pattern)[-1][-1]
        else:
            found = json_in(reply.text, _Relation).relation
        found = unquoted(found).strip("。. ")
        if not found:
            raise UnfitError("the relation is empty")
        return found

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the relation."""
        return self.told(item, values[0])

    def without_answer(self, item: Item) -> Row:
        """The row with an empty relation."""
        return self.told(item, "")

    def _entities(self) -> dict[str, str]:
        return {"entity1": self.source_entity or "", "entity2": self.target_entity or ""}

    def _pattern(self) -> re.Pattern[str] | None:
        if self.output_pattern_template is None:
            return None
        names = {key: re.escape(name) for key, name in self._entities().items()}
        text = filled(self.output_pattern_template, **names)
        return pattern_of("output_pattern_template", text, 1, is_verbose=True)


def _with_system(found: Prompt, template: str | None) -> Prompt:
    """A prompt with the recipe's system text, fields open."""
    return found if template is None else found._replace(system=template)
