"""One text of two: what a page says of a picture, and what is seen in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up, replaced
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.picture_captions import captions_of
from vlforge.ops.synthesis.picture_rows import captioned, plain_words
from vlforge.ops.synthesis.picture_writing import SpokenWriting
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.ops.synthesis.replies import said
from vlforge.ops.synthesis.reply_rules import (
    FOREIGN,
    NEW_FACTS,
    REFUSED,
    check_no_new_facts,
    written,
)
from vlforge.ops.synthesis.writing import UNFIT, Asked, Asks
from vlforge.types import LLAVA_IMAGE_TOKEN, Caption, Drop, RecipeError, Row

_NAME = "caption_fusion_mapper"
_UNFIT = (UNFIT, REFUSED, FOREIGN, NEW_FACTS)
_FOUND = "__caption_to_fuse__"


@dataclass(frozen=True, kw_only=True)
class CaptionFusionMapper(SpokenWriting):
    """Merge the text of a picture with a caption of it, so that the facts of both stay.

    Alt texts know names, places and numbers; captions of a model know what is to be seen.
    `model`, a folder or one of the recipe's `endpoints`, makes one text of both. The caption
    is in the field `caption_key`, or `captioner` (a folder or an endpoint) writes it where
    that is missing. A reply with a number or a name that neither text has is asked for
    again; if that does not help, `otherwise` says what becomes the text. Names are words in
    capitals within a sentence, so Chinese texts are held to their numbers only.
    `with_picture` shows the picture to the model too. Rows of one picture are rewritten;
    rows without, and texts without words, keep their text or take the caption.

    As in VeCLIP (Lai et al. 2023) and CapsFusion (Yu et al. 2023), with rules as the check.
    """

    model: str
    caption_key: str = "caption"
    captioner: str = ""
    captioner_prompt: str | None = None
    with_picture: bool = False
    longest: int = 1000
    otherwise: Literal["caption", "text", "drop"] = "caption"

    prompt_name: ClassVar[str] = "caption_fusion"
    prompt_fields: ClassVar[tuple[str, ...]] = ("alt", "caption")

    def __post_init__(self) -> None:
        if not self.caption_key and not self.captioner:
            raise RecipeError("give caption_key, the field of the caption, or a captioner")
        super().__post_init__()

    def model_name(self) -> str:
        """The model as the recipe names it."""
        return self.model

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """Caption what has none, then merge the texts of all rows together."""
        files = batch.image_files(self)
        wanted = [
            row if len(row) == 1 and self.captioner and not self._caption(item) else []
            for item, row in zip(batch.items, files, strict=True)
        ]
        made = captions_of(batch, _NAME, self.captioner, wanted, 1, self.captioner_prompt)
        items = []
        for item, row in zip(batch.items, made, strict=True):
            told = row[0][0].text.strip() if isinstance(row, list) and row else ""
            given = {**item.row, _FOUND: told} if told else item.row
            items.append(Item(item.uid, item.line, given, item.stats, item.given))
        results = super().apply(Batch(items, batch.context, batch.files))
        return [
            row if isinstance(row, Drop) else self._settled(item, result, batch.context)
            for item, row, result in zip(items, made, results, strict=True)
        ]

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """Both texts; nothing where one of them has no words."""
        if len(files) != 1:
            return None
        alt, caption = self._alt(item, context), self._caption(item)
        if not caption:
            return Drop("", "no caption to merge", None, self.caption_key)
        if not alt:
            return None
        words = {"alt": alt, "caption": caption.replace(LLAVA_IMAGE_TOKEN, "")}
        return [Asked.of(self.prompt().fill(**words), files if self.with_picture else ())]

    def read_in(self, item: Item, place: int, reply: Caption, context: Context) -> str:
        """The merged text, if it says nothing new."""
        text = " ".join(written(said(reply.text), self.lang, self.longest).split())
        check_no_new_facts(text, self._alt(item, context), self._caption(item))
        return text

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with the merged text."""
        return replaced(item.row, self.text_key, captioned(values, context))

    def _settled(self, item: Item, result: Any, context: Context) -> Grown | Row | Drop:
        """The row without the caption that was written on the way, or what stands in for it."""
        is_unfit = isinstance(result, Drop) and result.reason in _UNFIT
        if is_unfit and self.otherwise != "drop":
            result = self._left(item, context) if self.otherwise == "caption" else item.row
        elif result is item.row and not self._alt(item, context) and self._caption(item):
            result = self._left(item, context)
        if isinstance(result, dict) and _FOUND in result:
            return {key: value for key, value in result.items() if key != _FOUND}
        found: Grown | Row | Drop = result
        return found

    def _left(self, item: Item, context: Context) -> Row:
        """The row with the caption alone."""
        row = replaced(item.row, self.text_key, captioned([self._caption(item)], context))
        if self.compat == "data_juicer":
            return row
        model = self.captioner if _FOUND in item.row else ""
        return with_origin(row, origin(_NAME, item.uid, model=model, took="caption"))

    def _alt(self, item: Item, context: Context) -> str:
        return plain_words(str(look_up(item.row, self.text_key) or ""), context)

    def _caption(self, item: Item) -> str:
        value = look_up(item.row, self.caption_key) if self.caption_key else None
        value = value if isinstance(value, str) and value.strip() else item.row.get(_FOUND)
        return value.strip() if isinstance(value, str) else ""
