"""Captions said anew by a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up, replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.picture_writing import SpokenWriting
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.replies import UnfitError, said
from vlforge.ops.synthesis.reply_rules import check_no_new_facts, written
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.types import Caption, Drop, RecipeError, Row


@dataclass(frozen=True, kw_only=True)
class CaptionRewritingMapper(SpokenWriting):
    """Have a model say the captions of a row anew; image tokens and chunks stay.

    `goal`: `vary` in other words; `clean` a plain sentence of a web text; `shorten` to one
    sentence; `mend` what a captioner got wrong in a long text: repetition, stray signs,
    sentences that break off (MiniGPT-4 had its second-stage descriptions mended so). Each
    chunk is asked about on its own, with its pictures if `with_picture`. A reply with a
    number or name that the old text has not is asked for again, unless `with_picture` or
    `new_facts`; so is one shorter or longer than `min_ratio` to `max_ratio` times the old
    text. `keep_original_sample` keeps the old row before the new one.
    """

    model: str
    goal: Literal["vary", "clean", "shorten", "mend"] = "vary"
    with_picture: bool = False
    new_facts: bool = False
    min_ratio: float = 0.0
    max_ratio: float | None = None
    keep_original_sample: bool = False

    prompt_fields: ClassVar[tuple[str, ...]] = ("text",)

    def __post_init__(self) -> None:
        if self.max_ratio is not None and self.max_ratio <= self.min_ratio:
            raise RecipeError(f"max_ratio {self.max_ratio} is not above min_ratio {self.min_ratio}")
        super().__post_init__()

    def model_name(self) -> str:
        """The model as the recipe names it."""
        return self.model

    def prompt(self) -> Prompt:
        """The goal's words."""
        return self._spoken(f"caption_rewriting_{self.goal}", self.prompt_file)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """Every chunk with words."""
        left = iter(files)
        asked = []
        for chunk in self._text(item).split(context.eoc_token):
            count = chunk.count(context.image_token)
            own = [file for _, file in zip(range(count), left, strict=False)]
            text = plain_words(chunk, context)
            if text:
                filled = self.prompt().fill(text=text)
                asked.append(Asked.of(filled, own if self.with_picture else ()))
        return asked or None

    def read_in(self, item: Item, place: int, reply: Caption, context: Context) -> str:
        """The new text of a chunk."""
        old = self._old(item, context)[place]
        text = " ".join(written(said(reply.text), self.lang).split())
        ratio = len(text) / len(old)
        if ratio < self.min_ratio or (self.max_ratio is not None and ratio > self.max_ratio):
            raise UnfitError(f"the reply has {len(text)} characters, the given text {len(old)}")
        if not self.with_picture and not self.new_facts:
            check_no_new_facts(text, old)
        return text

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with new words between its tokens."""
        left = iter(values)
        chunks = []
        for chunk in self._text(item).split(context.eoc_token):
            shown = context.image_token * chunk.count(context.image_token)
            words = plain_words(chunk, context)
            begin = f"{shown}\n" if shown else ""
            chunks.append(f"{begin}{plain_words(next(left), context)} " if words else chunk)
        row = replaced(item.row, self.text_key, context.eoc_token.join(chunks).rstrip(" "))
        return Grown(True, (row,)) if self.keep_original_sample else row

    def _text(self, item: Item) -> str:
        value = look_up(item.row, self.text_key)
        return value if isinstance(value, str) else ""

    def _old(self, item: Item, context: Context) -> list[str]:
        chunks = self._text(item).split(context.eoc_token)
        return [text for chunk in chunks if (text := plain_words(chunk, context))]
