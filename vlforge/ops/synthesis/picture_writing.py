"""What operators share that write about pictures: languages, known facts, rows of dialogues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up, replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.picture_rows import (
    Pair,
    Wanted,
    dialogue,
    fit_pairs,
    pairs_in,
    pairs_of,
    plain_words,
)
from vlforge.ops.synthesis.prompt_files import HOME, Prompt, read_prompt
from vlforge.ops.synthesis.writing import Asked, Asks, Writing, drawing_of
from vlforge.types import LLAVA_IMAGE_TOKEN, Caption, Drawing, Drop, RecipeError, Row

NO_PICTURE = Drop("", "no image to write about")
LONGEST_FACTS = 4000
"""Characters of a row's own fields that are told to a model."""
_NOTHING = {"en": "nothing", "zh": "无"}
_TEXT = {"en": "caption", "zh": "说明文字"}


@dataclass(frozen=True, kw_only=True)
class SpokenWriting(Writing):
    """Asks in English or Chinese: `lang` chooses the prompt and what replies have to be in."""

    lang: Literal["en", "zh"] = "en"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prompt()

    def prompt(self) -> Prompt:
        """The words of the language, fields open."""
        return self._spoken(self.prompt_name, self.prompt_file)

    def _spoken(self, name: str, file: str = "") -> Prompt:
        in_chinese = f"{name}_zh"
        if self.lang == "zh" and (HOME / f"{in_chinese}.txt").exists():
            name = in_chinese
        found = read_prompt(name, file, self.prompt_fields)
        return found if self.system_prompt is None else found._replace(system=self.system_prompt)


@dataclass(frozen=True, kw_only=True)
class DialogueWriting(SpokenWriting):
    """Asks for questions with answers about a row's pictures and makes dialogues of them."""

    model: str
    num: int = 3
    min_num: int = 1
    use_text: bool = True
    context_keys: list[str] = field(default_factory=list)
    longest_answer: int = 0
    rows: Literal["one", "each"] = "one"
    keep_original_sample: bool = True

    prompt_fields = ("facts", "num")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.min_num <= self.num:
            raise RecipeError(f"num {self.num}, min_num {self.min_num}: give 1 <= min_num <= num")

    def model_name(self) -> str:
        """The model as the recipe names it."""
        return self.model

    def drawing(self) -> Drawing:
        """Room for several answers."""
        return drawing_of({"max_tokens": 1024, **(self.sampling_params or {})})

    def wanted(self) -> Wanted:
        """What the pairs have to be."""
        return Wanted(self.min_num, self.num, self.lang, self.longest_answer)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question about all pictures of the row."""
        if not files:
            return None if self.keep_original_sample else NO_PICTURE
        return [Asked.of(self.prompt().fill(**self.fields_of(item, context)), files)]

    def fields_of(self, item: Item, context: Context) -> dict[str, str]:
        """What the prompt's fields hold for a row."""
        return {"num": str(self.num), "facts": self.facts(item, context)}

    def facts(self, item: Item, context: Context) -> str:
        """What the row knows of its pictures, a line each."""
        told = {}
        text = look_up(item.row, self.text_key)
        if self.use_text and isinstance(text, str) and not pairs_of(text, context):
            told[_TEXT[self.lang]] = plain_words(text, context)
        told |= {key: _as_words(look_up(item.row, key)) for key in self.context_keys}
        lines = [f"{name}: {value}" for name, value in told.items() if value]
        return (
            "\n".join(lines).replace(LLAVA_IMAGE_TOKEN, "")[:LONGEST_FACTS] or _NOTHING[self.lang]
        )

    def read_in(self, item: Item, place: int, reply: Caption, context: Context) -> Any:
        """The usable pairs."""
        return fit_pairs(pairs_in(reply.text), self.wanted(), context)

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The dialogue in a new row, or every pair in one of its own."""
        return self.grown(item, values[0], context)

    def grown(self, item: Item, pairs: Sequence[Pair], context: Context) -> Row | Grown:
        """Rows of the pairs, after the row itself or in its place."""
        pictures = len(item.row.get(self.image_key) or item.row.get(self.image_bytes_key) or ())
        groups = [pairs] if self.rows == "one" else [[pair] for pair in pairs]
        texts = [dialogue(group, pictures, context) for group in groups]
        rows = [replaced(item.row, self.text_key, text) for text in texts]
        if len(rows) == 1 and not self.keep_original_sample:
            return rows[0]
        return Grown(self.keep_original_sample, tuple(rows))


def _as_words(value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "").strip()
    return json.dumps(value, ensure_ascii=False, default=str)
