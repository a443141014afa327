"""Captions by the model that was trained last, where they agree with the old text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.picture_captions import captions_of
from vlforge.ops.synthesis.picture_rows import captioned, pairs_of, plain_words
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.ops.synthesis.reply_rules import compared, is_in, is_refusal
from vlforge.types import Caption, Drop, Need, RecipeError, Row

AGREEMENT = "self_agreement"
"""Statistic: share of words that old text and best new caption have in common."""
_NAME = "self_training_mapper"
_EMPTY = frozenset(
    "a an and are as at be been by for from has have in into is it its of on or that the their "
    "there these this to was were which with 的 了 在 是 和 与 有 着 上 一 个".split()
)


@dataclass(frozen=True, kw_only=True)
class SelfTrainingMapper(RowMapper):
    """Recaption pictures with the last run's model and keep what agrees with the old text.

    `model` is the folder of a train stage (or one of the recipe's `endpoints`); it writes
    `caption_num` captions of a row's picture. The one that shares most words with the old
    text becomes the text if that share is `min_agreement` or more: of all their words
    without articles, prepositions and the like, how many both have (harmonic mean). Else
    `otherwise` keeps the old text or drops the row. `min_confidence` (mean log-probability
    per token) keeps out what the model itself doubts. Rows without a picture or with
    several, without words, and dialogues stay as they are.

    To let a model of pictures and texts decide, take caption_choice_mapper; to caption
    without comparison, image_captioning_mapper.
    """

    model: str
    caption_num: int = 3
    min_agreement: float = 0.3
    min_confidence: float | None = None
    otherwise: Literal["text", "drop"] = "text"
    prompt: str | None = None
    lang: Literal["en", "zh"] = "en"

    needs: ClassVar = Need.MODEL

    def __post_init__(self) -> None:
        if self.caption_num < 1:
            raise RecipeError(f"caption_num is {self.caption_num}; give at least 1")

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """Caption the pictures of all rows together."""
        files = [
            row if self._old(item, row, batch.context) else []
            for item, row in zip(batch.items, batch.image_files(self), strict=True)
        ]
        found = captions_of(batch, _NAME, self.model, files, self.caption_num, self.prompt)
        return [
            self._chosen(item, row, batch.context)
            for item, row in zip(batch.items, found, strict=True)
        ]

    def _old(self, item: Item, files: Sequence[ImageFile], context: Context) -> str:
        """The text to compare with, "" for a row that is left alone."""
        text = look_up(item.row, self.text_key)
        if len(files) != 1 or not isinstance(text, str) or pairs_of(text, context):
            return ""
        return plain_words(text, context)

    def _chosen(self, item: Item, found: Any, context: Context) -> Grown | Row | Drop:
        if isinstance(found, Drop) or not found:
            return found or item.row
        old = plain_words(str(look_up(item.row, self.text_key)), context)
        usable = [caption for caption in found[0] if self._is_usable(caption)]
        agreed = [(agreement(old, caption.text), -at) for at, caption in enumerate(usable)]
        share, place = max(agreed, default=(0.0, 0))
        if not usable or share < self.min_agreement:
            if self.otherwise == "text":
                return item.row
            bound = f">= {self.min_agreement:g}"
            return Drop("", f"{AGREEMENT} too low", AGREEMENT, round(share, 4), bound)
        text = captioned([usable[-place].text.strip()], context)
        row = replaced(item.row, self.text_key, text)
        if self.compat != "data_juicer":
            entry = origin(_NAME, item.uid, model=self.model, seed=context.seed)
            row = with_origin(row, {**entry, AGREEMENT: round(share, 4)})
        return row

    def _is_usable(self, caption: Caption) -> bool:
        text = caption.text.strip()
        if self.min_confidence is not None and caption.confidence < self.min_confidence:
            return False
        return bool(text) and not is_refusal(text) and is_in(text, self.lang)


def agreement(one: str, other: str) -> float:
    """How many of both texts' telling words they share, from 0 to 1; each word counts once."""
    mine, theirs = (set(compared(text)) - _EMPTY for text in (one, other))
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * len(mine & theirs) / (len(mine) + len(theirs))
