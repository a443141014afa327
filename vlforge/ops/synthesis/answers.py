"""What a model answers to the text and the pictures of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up, replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.replies import UnfitError, said
from vlforge.ops.synthesis.writing import Asked, Asks, Writing
from vlforge.types import Caption, Drawing, Drop, Row


@dataclass(frozen=True, kw_only=True)
class MllmMapper(Writing):
    """Replace a row's text by what a vision-language model answers to it.

    `hf_model` is a model folder, or one of the recipe's `endpoints`; it sees the pictures and
    is asked with the row's words. The answer comes after the image tokens and ends in the
    end-of-chunk token, so that the row stays a caption of its pictures; Data-Juicer's text is
    the answer alone (`compat: data_juicer`), which filters on pictures then pass by. A row
    without words is dropped. `prompt_file` may put words around the row's: `{text}`.
    """

    hf_model: str = "llava-hf/llava-v1.6-vicuna-7b-hf"
    max_new_tokens: int = 256
    temperature: float | None = 0.2
    top_p: float | None = None
    num_beams: int = 1

    prompt_name: ClassVar[str] = "mllm"
    prompt_fields: ClassVar[tuple[str, ...]] = ("text",)

    def model_name(self) -> str:
        """The model as the recipe names it."""
        return self.hf_model

    def drawing(self) -> Drawing:
        """As the operator's own keys say."""
        top_p = 1.0 if self.top_p is None else self.top_p
        heat = 0.0 if self.num_beams > 1 else self.temperature or 0.0
        return Drawing(self.max_new_tokens, heat, top_p, self.num_beams)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """The row's words with its pictures."""
        text = plain_words(str(look_up(item.row, self.text_key) or ""), context)
        if not text:
            return Drop("", "no words to ask with")
        return [Asked.of(self.prompt().fill(text=text), files)]

    def read(self, item: Item, place: int, reply: Caption) -> str:
        """The answer; one without words is none."""
        text = said(reply.text)
        if not text:
            raise UnfitError("the reply is empty")
        return text

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with the answer as its text."""
        (text,) = values
        if self.compat != "data_juicer":
            pictures = len(item.row.get(self.image_key) or item.row.get(self.image_bytes_key) or ())
            shown = context.image_token * pictures
            text = f"{shown}\n{plain_words(text, context)} {context.eoc_token}".lstrip("\n")
        return replaced(item.row, self.text_key, text)
