"""Writing worse answers on purpose: pairs for preference training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from vlforge.data.images import ImageFile
from vlforge.ops.base import replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.replies import UnfitError
from vlforge.ops.synthesis.text_writing import (
    ApiWriting,
    missing,
    pattern_of,
    plain_field,
    two_in,
)
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.types import Caption, Row


class _Worse(msgspec.Struct):
    answer: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PairPreferenceMapper(ApiWriting):
    """Have a model write a worse answer and say what is worse: pairs for DPO.

    The row's own answer is the chosen one; the worse one goes into `rejected_key`, the
    reason into `reason_key`. The row's text, where it has one, is shown as a reference.
    `output_pattern` reads replies of another form than the prompt's JSON by its two groups;
    `【回答】 … 【原因】 …`, the form of Data-Juicer's own prompt, is read too. A worse answer
    that repeats the row's is asked for again. A row whose replies do not fit is dropped; with
    `compat: data_juicer` it stays with both fields empty.
    """

    output_pattern: str | None = None
    rejected_key: str = "rejected_response"
    reason_key: str = "reason"
    query_key: str = "query"
    response_key: str = "response"

    prompt_name: ClassVar = "pair_preference"
    prompt_fields: ClassVar = ("reference", "query", "response", "text")
    blank: ClassVar = "query"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 2)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question: the pair, with the row's text where it has one."""
        query = plain_field(item, self.query_key, context)
        response = plain_field(item, self.response_key, context)
        text = plain_field(item, self.text_key, context)
        is_told = self.input_template is not None or not text
        told = {"query": query, "response": response, "text": text}
        told["reference"] = text if is_told else f"Reference:\n{text}\n\n"
        return missing((query, response)) or [Asked.of(self.prompt().fill(**told))]

    def read(self, item: Item, place: int, reply: Caption) -> list[str]:
        """The worse answer and what is worse in it."""
        found = two_in(reply.text, _Worse, ("回答", "原因"), self.output_pattern)
        own = item.row.get(self.response_key)
        if isinstance(own, str) and found[0].split() == own.split():
            raise UnfitError(
                "the answer is the one that was given", "worse answer is the given one"
            )
        return found

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the worse answer and the reason."""
        ((answer, reason),) = values
        return replaced(replaced(item.row, self.rejected_key, answer), self.reason_key, reason)

    def without_answer(self, item: Item) -> Row:
        """The row with both empty."""
        return replaced(replaced(item.row, self.rejected_key, ""), self.reason_key, "")
