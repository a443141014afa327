"""Rules for descriptions that a model wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.long_captions import without_turns
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.reply_rules import PIECE, compared, is_in, is_refusal
from vlforge.types import Drop, RecipeError, Row

_TALK = (
    r"\b(?:text|image)[- ]based\b",
    r"\b(?:let me know|feel free|hope this helps|is there anything else|would you like)\b",
    r"^(?:sure|certainly|of course)[.!]?$",
    r"\bthe (?:image|picture|photo) (?:you (?:have )?(?:provided|sent|shared|uploaded))\b",
    r"(?:希望(?:这|以上)|如果您?(?:还有|需要)|您提供的(?:图片|图像))",
)
_LEAD = re.compile(
    r"^(?:(?:sure|certainly|of course|okay)\b[,.!]?\s*)?"
    r"(?:here is|here's|this is|below is|以下是|这是)[^.!?。\n]{0,80}[:：]\s*",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"”’')\]])\s+|(?<=[。！？])(?![”’])")
_ENDS = re.compile(r"[.!?。！？…][\"”’')\]]*$")
_REFUSES = "description refuses or speaks of its writer"


@dataclass(frozen=True, kw_only=True)
class CaptionRulesMapper(RowMapper):
    """Strike from descriptions what models write beside them, and drop rows that are not one.

    What goes: turns of another speaker and `#`; sentences that occurred before; sentences
    that talk to the reader or of image-based and text-based things, or match one of
    `unwanted`; a last sentence that breaks off (unless `keep_fragments`). What drops the
    row: a refusal or apology, another language than `lang`, fewer than `min_words` words
    (Chinese signs) left. These are MiniGPT-4's kinds of rules for its second-stage data;
    its list is not published.
    """

    lang: Literal["en", "zh"] = "en"
    min_words: int = 1
    keep_fragments: bool = False
    unwanted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for pattern in self.unwanted:
            try:
                re.compile(pattern)
            except re.error as error:
                raise RecipeError(f"unwanted: {pattern!r} is no expression: {error}") from None

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """Every chunk of every row's text."""
        return [self._checked(item, batch.context) for item in batch.items]

    def _checked(self, item: Item, context: Context) -> Row | Drop:
        text = look_up(item.row, self.text_key)
        text = text if isinstance(text, str) else ""
        chunks, words = [], []
        for chunk in text.split(context.eoc_token):
            plain = plain_words(chunk, context)
            if not plain:
                chunks.append(chunk)
                continue
            if is_refusal(plain):
                return Drop("", _REFUSES, None, plain[:160])
            kept = self.clean(plain)
            words.append(kept)
            shown = context.image_token * chunk.count(context.image_token)
            chunks.append(f"{shown}\n{kept} ".lstrip("\n"))
        told = " ".join(words)
        count = sum(1 for piece in PIECE.findall(told) if piece[0].isalnum())
        if count < self.min_words:
            value = f"{count} words: {told[:120]!r}"
            return Drop("", "description too short", None, value, f">= {self.min_words}")
        if not is_in(told, self.lang):
            return Drop("", f"description not in {self.lang}", None, told[:160])
        made = context.eoc_token.join(chunks)
        return item.row if made == text else replaced(item.row, self.text_key, made)

    def clean(self, text: str) -> str:
        """The sentences that stay."""
        text = _LEAD.sub("", without_turns(text)).replace("#", " ")
        text = " ".join(text.split())
        firsts = {tuple(compared(one)) or one: one for one in reversed(sentences_of(text))}
        sentences = list(reversed(firsts.values()))
        if not self.keep_fragments and len(sentences) > 1 and not _ENDS.search(sentences[-1]):
            sentences = sentences[:-1]
        bad = re.compile("|".join(f"(?:{one})" for one in (*_TALK, *self.unwanted)), re.IGNORECASE)
        return _spaced([one for one in sentences if not bad.search(one)])


def sentences_of(text: str) -> list[str]:
    """The sentences of a line; a mark within a number or a word ends none."""
    return [part.strip() for part in _BETWEEN.split(text) if part.strip()]


def _spaced(sentences: Sequence[str]) -> str:
    text = ""
    for sentence in sentences:
        gap = "" if not text or text[-1] in "。！？" else " "
        text += gap + sentence
    return text
