"""Long descriptions by a model that says little at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, replaced
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.picture_rows import captioned
from vlforge.ops.synthesis.picture_writing import NO_PICTURE, SpokenWriting
from vlforge.ops.synthesis.replies import said
from vlforge.ops.synthesis.reply_rules import PIECE
from vlforge.ops.synthesis.writing import Asked, Asks, converse, drawing_of, reference
from vlforge.ops.text.pieces import token_counter, tokenizer_file
from vlforge.types import LLAVA_IMAGE_TOKEN, Caption, Drawing, Drop, RecipeError, Row, Turn

_KEY = "long_caption_mapper.hf_tokenizer"
_CONTINUE = {"en": "Continue", "zh": "请继续"}


@dataclass(frozen=True, kw_only=True)
class LongCaptionMapper(SpokenWriting):
    """Describe a row's pictures, asking the model to go on until the text is long enough.

    `model`, a folder or one of the recipe's `endpoints`, is asked for a full description of
    all pictures together. While what it said has fewer than `min_tokens` tokens, it is shown
    that and asked to go on (`continue_prompt`), `continuations` times at most; the pieces are
    joined. Tokens are those of `hf_tokenizer` (as in token_num_filter); without one, words
    and punctuation marks are counted. The description becomes the row's text.

    Source: MiniGPT-4 (Zhu et al. 2023), section 3.2: 80 tokens, one continuation, asked of
    the first stage's model. Its texts are then mended (caption_rewriting_mapper, `goal:
    mend`) and checked by rules (caption_rules_mapper).
    """

    model: str
    min_tokens: int = 80
    continuations: int = 1
    continue_prompt: str = ""
    hf_tokenizer: str = ""
    keep_original_sample: bool = False

    prompt_name: ClassVar[str] = "long_caption"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.continuations < 0:
            raise RecipeError(f"continuations is {self.continuations}; give 0 or more")

    def model_name(self) -> str:
        """The model as the recipe names it."""
        return self.model

    def drawing(self) -> Drawing:
        """Nucleus sampling as MiniGPT-4's demo has it, unless the recipe says otherwise."""
        demo = {"max_tokens": 300, "temperature": 1.0, "top_p": 0.9}
        return drawing_of({**demo, **(self.sampling_params or {})})

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """All pictures of the row at once."""
        return [Asked.of(self.prompt(), files)] if files else NO_PICTURE

    def read(self, item: Item, place: int, reply: Caption) -> str:
        """A piece of the description; nothing said is no fault here."""
        return without_turns(said(reply.text)).replace(LLAVA_IMAGE_TOKEN, "").strip()

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """Ask about all rows, then again about those whose text is too short."""
        self._tokens("")  # a tokenizer that is not there is told before anything is asked
        asked: list[Asks] = [
            self.asks(item, files, batch.context)
            for item, files in zip(batch.items, batch.image_files(self), strict=True)
        ]
        found = self._said(batch, asked, 0)
        for turn in range(1, self.continuations + 1):
            again = self._short(asked, found)
            if not any(again):
                break
            more = self._said(batch, again, turn)
            for at, piece in enumerate(more):
                before = found[at]
                if isinstance(piece, list) and isinstance(before, list):
                    found[at] = [*before, *piece]
        joined = [[_joined(row)] if isinstance(row, list) else row for row in found]
        return [
            self._stamped(item, row if isinstance(row, Drop) or row[0] else _SILENT, batch.context)
            for item, row in zip(batch.items, joined, strict=True)
        ]

    def _said(self, batch: Batch, asked: Sequence[Asks], turn: int) -> list[Any]:
        """One piece per row, a `Drop`, or None."""
        items = [replace_uid(item, turn) for item in batch.items]
        return converse(
            Batch(items, batch.context, batch.files),
            type(self),
            reference(self.model, self.api_endpoint, self.model_params, self.is_api()),
            asked,
            self.drawing(),
            self.try_num,
            lambda at, place, reply: self.read(items[at], place, reply),
        )

    def _short(self, asked: Sequence[Asks], found: Sequence[Any]) -> list[Asks]:
        """The conversations that go on, None for the other rows."""
        again: list[Asks] = []
        for row, pieces in zip(asked, found, strict=True):
            is_open = isinstance(pieces, list) and isinstance(row, Sequence)
            if not is_open or self._tokens(_joined(pieces)) >= self.min_tokens:
                again.append(None)
                continue
            turns = list(row[0].turns)  # type: ignore[index]
            for piece in pieces:
                go_on = Turn("user", self.continue_prompt or _CONTINUE[self.lang])
                turns += [Turn("assistant", piece), go_on]
            again.append([replace(row[0], turns=tuple(turns))])  # type: ignore[index]
        return again

    def _tokens(self, text: str) -> int:
        if self.hf_tokenizer:
            return token_counter(tokenizer_file(self.hf_tokenizer, _KEY), _KEY)([text])[0]
        return len(PIECE.findall(text))

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with the description."""
        pictures = len(item.row.get(self.image_key) or item.row.get(self.image_bytes_key) or ())
        shown = context.image_token * (pictures - 1) if pictures > 1 else ""
        row = replaced(item.row, self.text_key, shown + captioned(values, context))
        return Grown(True, (row,)) if self.keep_original_sample else row


_SILENT = Drop("", "model says nothing")
_ROLES = re.compile(r"###\s*(?:Human|Assistant)\s*:?|^\s*(?:Assistant|ASSISTANT)\s*:")


def without_turns(text: str) -> str:
    """What a model said before it began to speak for the other side."""
    text = _ROLES.sub("###", text).strip()
    pieces = [piece.strip() for piece in text.split("###")]
    return next((piece for piece in pieces if piece), "")


def _joined(pieces: Sequence[str]) -> str:
    return " ".join(piece for piece in pieces if piece)


def replace_uid(item: Item, turn: int) -> Item:
    """The row, called so that every turn of a conversation is drawn anew."""
    if not turn:
        return item
    return Item(f"{item.uid}+{turn}", item.line, item.row, item.stats, item.given)
