"""Tags of pictures by a vision-language model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown
from vlforge.ops.batch import Context, Item
from vlforge.ops.rows.tags import tagged
from vlforge.ops.synthesis.picture_writing import SpokenWriting
from vlforge.ops.synthesis.prompt_files import Prompt, parse
from vlforge.ops.synthesis.replies import UnfitError, json_in
from vlforge.ops.synthesis.reply_rules import REFUSED, is_in, is_refusal
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.types import Caption, Drop, RecipeError, Row

_LONGEST_TAG = 60


class _Tags(msgspec.Struct, frozen=True):
    tags: list[str]


@dataclass(frozen=True, kw_only=True)
class ImageTaggingVlmMapper(SpokenWriting):
    """Write tags of each picture into the row, as a vision-language model names them.

    `__dj__meta__` gets a list of tags per picture under `tag_field_name`. The model, a folder,
    one of the recipe's `endpoints` or with `is_api_model` a model of an API, is asked about
    every picture alone and replies with JSON; tags come in small letters, each once, at most
    `max_tags`. `input_template` is the user's turn in place of the prompt's. A row that has
    such tags already, or no picture, stays as it is.
    """

    api_or_hf_model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    is_api_model: bool = False
    tag_field_name: str = "image_tags"
    input_template: str | None = None
    max_tags: int = 20

    prompt_name: ClassVar[str] = "image_tagging"
    prompt_fields: ClassVar[tuple[str, ...]] = ("max_tags",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tags < 1:
            raise RecipeError(f"max_tags is {self.max_tags}; give at least 1")

    def model_name(self) -> str:
        """The model as the recipe names it."""
        return self.api_or_hf_model

    def is_api(self) -> bool:
        """As `is_api_model` says, unless there is a folder of that name."""
        return self.is_api_model and not os.path.isdir(self.api_or_hf_model)

    def prompt(self) -> Prompt:
        """The words; a template of the recipe stands in for the user's turn."""
        found = super().prompt()
        if not self.input_template:
            return found
        return found._replace(user=parse(self.input_template).user)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """Each picture alone."""
        known = item.row.get("__dj__meta__")
        if not files or (isinstance(known, dict) and self.tag_field_name in known):
            return None
        prompt = self.prompt().fill(max_tags=str(self.max_tags))
        return [Asked.of(prompt, [file]) for file in files]

    def read(self, item: Item, place: int, reply: Caption) -> list[str]:
        """The tags of one picture."""
        if is_refusal(reply.text):
            raise UnfitError("the reply speaks of its writer or refuses", REFUSED)
        found = [" ".join(tag.lower().split()) for tag in json_in(reply.text, _Tags).tags]
        tags = [tag for tag in dict.fromkeys(found) if tag and len(tag) <= _LONGEST_TAG]
        if not tags:
            raise UnfitError("there is no tag of one to three words")
        if not is_in(" ".join(tags), self.lang):
            raise UnfitError(f"the tags are not in {'Chinese' if self.lang == 'zh' else 'English'}")
        return tags[: self.max_tags]

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with the tags."""
        return tagged(item.row, **{self.tag_field_name: list(values)})
