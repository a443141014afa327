"""Questions whose answers stand in a picture as words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up
from vlforge.ops.batch import Context, Item
from vlforge.ops.rows.tags import tagged
from vlforge.ops.synthesis.picture_rows import Pair, fit_pairs, pairs_in
from vlforge.ops.synthesis.picture_writing import DialogueWriting
from vlforge.ops.synthesis.replies import UnfitError, json_in
from vlforge.ops.synthesis.writing import Asks
from vlforge.types import LLAVA_IMAGE_TOKEN, Caption, Drop, Row

OCR_TOKENS = "ocr_tokens"
"""Tag under which the words are kept that a model read in a picture."""
NO_WORDS = Drop("", "no words in the picture")
_WORD = re.compile(r"[^\W_]+")
_CHINESE = re.compile("[\u4e00-\u9fff]")
_GIVEN = {
    "en": "These words were read in the picture, in order: {words}\n",
    "zh": "图中读出的文字（按顺序）：{words}\n",
}


_NOT_READ = "is not in the picture's words"
_IN_QUESTION = "stands in its own question"


class _Reading(msgspec.Struct, frozen=True):
    words: list[str]
    pairs: list[Pair]


@dataclass(frozen=True, kw_only=True)
class OcrQuestionMapper(DialogueWriting):
    """Make questions about a row's pictures whose answers are words that stand in them.

    The words are those in the field `ocr_key` (a list of words, of objects with `text` or
    `word`, or one text), else what the model itself reads; that is kept as
    `__dj__meta__.ocr_tokens`. An answer whose words are not among them, or that stands in
    its own question, is none. A picture without words gives no new row: the old one stays
    with `keep_original_sample`, else it is dropped. The dialogue and the other keys are as
    in image_question_answer_mapper; the row's text is not told to the model.
    """

    use_text: bool = False
    ocr_key: str = ""

    prompt_name: ClassVar[str] = "ocr_question"
    prompt_fields: ClassVar[tuple[str, ...]] = ("facts", "num", "reading")

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question about the pictures, unless the given words are none."""
        if self.ocr_key and files and not self._given(item):
            return None if self.keep_original_sample else NO_WORDS
        return super().asks(item, files, context)

    def fields_of(self, item: Item, context: Context) -> dict[str, str]:
        """The words that are known too."""
        words = " | ".join(self._given(item)).replace(LLAVA_IMAGE_TOKEN, "")
        reading = _GIVEN[self.lang].replace("{words}", words) if words else ""
        return {**super().fields_of(item, context), "reading": reading}

    def read_in(self, item: Item, place: int, reply: Caption, context: Context) -> Any:
        """The usable pairs and the words that the model read; both empty where none stand."""
        if self.ocr_key:
            try:
                pairs = json_in(reply.text, _Reading).pairs
            except UnfitError:
                pairs = pairs_in(reply.text)
            words = self._given(item)
        else:
            reading = json_in(reply.text, _Reading)
            pairs, words = reading.pairs, [word for word in reading.words if word.strip()]
            if not words and not pairs:
                return [], []
        stand = [pair for pair in pairs if stands_in(pair.answer, words)]
        asking = [pair for pair in stand if not _tells(pair)]
        if len(asking) < self.min_num and len(asking) < len(pairs):
            wrong = next(pair for pair in pairs if pair not in asking)
            why = _IN_QUESTION if wrong in stand else _NOT_READ
            raise UnfitError(f"the answer {wrong.answer[:60]!r} {why}")
        return fit_pairs(asking, self.wanted(), context), [] if self.ocr_key else words

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The dialogue, and what was read."""
        pairs, words = values[0]
        if not pairs:
            return Grown(True) if self.keep_original_sample else NO_WORDS
        grown = self.grown(item, pairs, context)
        if not words:
            return grown
        if isinstance(grown, Grown):
            rows = tuple(tagged(row, **{OCR_TOKENS: words}) for row in grown.rows)
            return Grown(grown.keeps_original, rows)
        return tagged(grown, **{OCR_TOKENS: words})

    def _given(self, item: Item) -> list[str]:
        value = look_up(item.row, self.ocr_key) if self.ocr_key else None
        listed = value if isinstance(value, list) else [value]
        words = [_word(one) for one in listed]
        return [word for word in words if word]


def _word(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("text", value.get("word"))
    return value.strip() if isinstance(value, str) else ""


def stands_in(answer: str, words: Sequence[str]) -> bool:
    """Whether an answer's words are all among those read; Chinese signs in one run."""
    wanted = _WORD.findall(answer.lower())
    if not wanted:
        return answer.strip() in words
    if _CHINESE.search(answer):
        return "".join(wanted) in "".join(_WORD.findall("".join(words).lower()))
    have = set(_WORD.findall(" ".join(words).lower()))
    return all(word in have for word in wanted)


def _tells(pair: Pair) -> bool:
    """Whether the question holds its own answer."""
    texts = (pair.question, pair.answer)
    question, answer = (" ".join(_WORD.findall(text.lower())) for text in texts)
    if _CHINESE.search(answer):
        return answer.replace(" ", "") in question.replace(" ", "")
    return bool(answer) and f" {answer} " in f" {question} "
