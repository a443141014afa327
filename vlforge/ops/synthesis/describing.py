"""Descriptions, conversations and reasoning about pictures by a large vision-language model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up, replaced
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.picture_rows import Wanted, dialogue, fit_pairs, pairs_in, plain_words
from vlforge.ops.synthesis.picture_writing import LONGEST_FACTS, NO_PICTURE, SpokenWriting
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.replies import said
from vlforge.ops.synthesis.reply_rules import written
from vlforge.ops.synthesis.writing import Asked, Asks, converse, drawing_of, reference
from vlforge.types import Caption, Drawing, Drop, RecipeError, Row

_PROMPTS = {
    "description": "image_description",
    "reasoning": "image_reasoning",
    "conversation": "image_dialogue",
}
_PAIRS = {"reasoning": Wanted(1, 1), "conversation": Wanted(2, 4)}
_NOT_ALL = "a picture got no fit reply"


@dataclass(frozen=True, kw_only=True)
class ImageCaptioningFromGpt4vMapper(SpokenWriting):
    """Have a large vision-language model write about a row's pictures.

    `mode: description` puts a description after each picture's own token. `conversation` and
    `reasoning` make a dialogue about all pictures of the row, checked as
    image_question_answer_mapper checks its own, which `vlforge convert --to llava` reads.
    `custom` puts the reply to `system_prompt` and `user_prompt` after each token.
    `user_prompt` stands in for the user's words of the other modes too, and the text in
    `user_prompt_key` for both. With `any_or_all: any` pictures without a fit reply stay
    without words; with `all`, or if no picture has one, the row is dropped.

    `model` is one of the recipe's `endpoints`, a folder, or the name of an API's model. From
    Data-Juicer 1.4, whose reader of replies could not work with chat completions; there
    conversations are put after the picture as they came (`compat: data_juicer`).
    """

    mode: Literal["reasoning", "description", "conversation", "custom"] = "description"
    model: str = "gpt-4o"
    is_api_model: bool = True
    api_key: str = ""
    max_token: int = 500
    temperature: float = 1.0
    user_prompt: str = ""
    user_prompt_key: str | None = None
    keep_original_sample: bool = True
    any_or_all: Literal["any", "all"] = "any"

    prompt_fields: ClassVar[tuple[str, ...]] = ("facts", "num")

    def __post_init__(self) -> None:
        if self.api_key:
            raise RecipeError("api_key does not belong in a recipe; set OPENAI_API_KEY")
        if self.mode == "custom" and not (self.user_prompt or self.user_prompt_key):
            raise RecipeError("mode custom has no words of its own: give user_prompt")
        super().__post_init__()

    def model_name(self) -> str:
        """The model as the recipe names it."""
        return self.model

    def is_api(self) -> bool:
        """As `is_api_model` says, unless there is a folder of that name."""
        return self.is_api_model and not os.path.isdir(self.model)

    def drawing(self) -> Drawing:
        """As the operator's own keys say, `sampling_params` before them."""
        own = {"max_tokens": self.max_token, "temperature": self.temperature}
        return drawing_of({**own, **(self.sampling_params or {})})

    def prompt(self) -> Prompt:
        """The mode's words, or the recipe's in their place."""
        if self.mode == "custom" and not self.prompt_file:
            return Prompt(self.system_prompt or "", self.user_prompt)
        found = self._spoken(_PROMPTS.get(self.mode, ""), self.prompt_file)
        return found._replace(user=self.user_prompt) if self.user_prompt else found

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """Ask about all pictures together; each is a question that may fail alone."""
        asked = [self._asked(item, files, batch.context) for item, files in self._rows(batch)]
        lone = [
            (at, place, one)
            for at, row in enumerate(asked)
            if isinstance(row, Sequence)
            for place, one in enumerate(row)
        ]
        items = [replaced_uid(batch.items[at], place) for at, place, _ in lone]
        replies = converse(
            Batch(items, batch.context, batch.files),
            type(self),
            reference(self.model, self.api_endpoint, self.model_params, self.is_api()),
            [[one] for _, _, one in lone],
            self.drawing(),
            self.try_num,
            lambda at, place, reply: self.read_in(items[at], place, reply, batch.context),
        )
        by_row: dict[int, list[Any]] = {}
        for (at, _, _), found in zip(lone, replies, strict=True):
            by_row.setdefault(at, []).append(found[0] if isinstance(found, list) else found)
        return [
            self._settled(item, asked[at], by_row.get(at, []), batch.context)
            for at, item in enumerate(batch.items)
        ]

    def _rows(self, batch: Batch) -> list[tuple[Item, list[ImageFile]]]:
        return list(zip(batch.items, batch.image_files(self), strict=True))

    def _asked(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        text = str(look_up(item.row, self.text_key) or "")
        if not files:
            return None if self.keep_original_sample else NO_PICTURE
        fault = context.unmatched(text, files)
        if fault is not None:
            return fault
        prompt = self.prompt()
        own = look_up(item.row, self.user_prompt_key) if self.user_prompt_key else None
        if isinstance(own, str) and own.strip():
            prompt = prompt._replace(user=own)
        most = _PAIRS[self.mode].most if self.mode in _PAIRS else 1
        facts = plain_words(text, context)[:LONGEST_FACTS]
        filled = prompt.fill(facts=facts or "-", num=str(most))
        if self._talks():
            return [Asked.of(filled, files)]
        return [Asked.of(filled, [file]) for file in files]

    def _talks(self) -> bool:
        """Whether replies become dialogues."""
        return self.mode in _PAIRS and self.compat != "data_juicer"

    def read_in(self, item: Item, place: int, reply: Caption, context: Context) -> Any:
        """A text, or pairs."""
        if self._talks():
            wanted = _PAIRS[self.mode]._replace(lang=self.lang)
            return fit_pairs(pairs_in(reply.text), wanted, context)
        text = plain_words(said(reply.text), context)
        return written(text, self.lang) if self.mode == "description" else text

    def _settled(
        self, item: Item, asked: Asks, found: Sequence[Any], context: Context
    ) -> Grown | Row | Drop:
        if asked is None:
            return Grown(True)
        if isinstance(asked, Drop):
            return asked
        faults = [one for one in found if isinstance(one, Drop)]
        if faults and (self.any_or_all == "all" or len(faults) == len(found)):
            one, told = faults[0], f"{faults[0].reason}: {faults[0].value}"
            return one if len(found) == 1 else Drop("", _NOT_ALL, None, told)
        return self._stamped(item, list(found), context)

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with what was written, after the old one or in its place."""
        if self._talks():
            pictures = str(look_up(item.row, self.text_key)).count(context.image_token)
            text = dialogue(values[0], pictures, context)
        else:
            text = self._text(str(look_up(item.row, self.text_key)), values, context)
        return Grown(self.keep_original_sample, (replaced(item.row, self.text_key, text),))

    def _text(self, old: str, values: Sequence[Any], context: Context) -> str:
        """Each chunk's tokens with what is said of each picture, then the chunk's end."""
        left = iter(values)
        parts = []
        for chunk in old.split(context.eoc_token):
            if chunk.strip():
                told = [next(left) for _ in range(chunk.count(context.image_token))]
                words = [f" {value} " if isinstance(value, str) else " " for value in told]
                parts += [context.image_token + word for word in words]
                parts.append(context.eoc_token)
        return "".join(parts)


def replaced_uid(item: Item, place: int) -> Item:
    """The same row as the one that a picture of it stands for."""
    return Item(f"{item.uid}.{place}", item.line, item.row, item.stats, item.given)
