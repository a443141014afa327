"""Rewriting questions and answers: after a reference text, or to make them better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.picture_rows import Pair
from vlforge.ops.synthesis.text_writing import (
    ApiWriting,
    EitherWriting,
    TextWriting,
    filled,
    missing,
    named,
    parts_of,
    pattern_of,
    plain_field,
    two_in,
    whole,
)
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.types import Caption, Drop, Row

_PAIR = "Question:\n{query}\n\nAnswer:\n{response}"
_REFERENCE = "Reference:\n{text}"
_MARKS = ("问题", "回答")


@dataclass(frozen=True, kw_only=True)
class PairWriting(TextWriting):
    """Rewrites the question, the answer, or both of a row."""

    query_key: str = "query"
    response_key: str = "response"
    qa_pair_template: str | None = None
    output_pattern: str | None = None

    blank: ClassVar = "qa_pair"
    writes: ClassVar[tuple[str, ...]] = ("query", "response")
    """Which of the two are written anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, len(self.writes))
        self._pair()

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question: the pair, and what else the operator shows."""
        query = plain_field(item, self.query_key, context)
        response = plain_field(item, self.response_key, context)
        told = self.known(item, context)
        pair = filled(self._pair(), query=query, response=response)
        prompt = self.prompt().fill(qa_pair=pair, query=query, response=response, **told)
        return missing((query, response, *told.values())) or [Asked.of(prompt)]

    def known(self, item: Item, context: Context) -> dict[str, str]:
        """Further fields of the prompt."""
        return {}

    def read(self, item: Item, place: int, reply: Caption) -> list[str]:
        """The new texts, in the order of `writes`."""
        if len(self.writes) > 1:
            return two_in(reply.text, Pair, _MARKS, self.output_pattern)
        if self.output_pattern is None:
            return [whole(reply.text)]
        found = parts_of(reply.text, pattern_of("output_pattern", self.output_pattern, 1))
        return [whole(found[0][-1])]

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with the new texts in their fields."""
        row = item.row
        for name, text in zip(self.writes, values[0], strict=True):
            key = self.query_key if name == "query" else self.response_key
            row = replaced(row, key, text)
        return item.row if row == item.row else row

    def _pair(self) -> str:
        if self.qa_pair_template is None:
            return _PAIR
        return named("qa_pair_template", self.qa_pair_template, ("query", "response"))


@dataclass(frozen=True, kw_only=True)
class _Calibration(PairWriting, ApiWriting):
    reference_template: str | None = None

    prompt_fields: ClassVar = ("reference", "qa_pair", "text", "query", "response")

    def known(self, item: Item, context: Context) -> dict[str, str]:
        text = plain_field(item, self.text_key, context)
        return {"text": text, "reference": filled(self._reference(), text=text) if text else ""}

    def _reference(self) -> str:
        if self.reference_template is None:
            return _REFERENCE
        return named("reference_template", self.reference_template, ("text",))


@dataclass(frozen=True, kw_only=True)
class CalibrateQaMapper(_Calibration):
    """Correct question and answer after the row's text, which a model reads as the reference.

    The new texts take the place of the old ones. `reference_template` and `qa_pair_template`
    (with `{}`) say how text and pair are shown. `output_pattern` reads replies of another
    form than the prompt's JSON: its two groups are question and answer, `.` takes line ends;
    `【问题】 … 【回答】 …`, the form of Data-Juicer's own prompt, is read too. A row whose
    replies do not fit is dropped; with `compat: data_juicer` it stays as it was.
    """

    prompt_name: ClassVar = "calibrate_qa"


@dataclass(frozen=True, kw_only=True)
class CalibrateQueryMapper(_Calibration):
    """Correct the question after the row's text, so that the answer still answers it.

    See calibrate_qa_mapper. The reply is the question alone, or the last group of
    `output_pattern` (which Data-Juicer does not look at here). A row whose replies do not fit
    is dropped; with `compat: data_juicer` it stays as it was.
    """

    prompt_name: ClassVar = "calibrate_query"
    writes: ClassVar = ("query",)


@dataclass(frozen=True, kw_only=True)
class CalibrateResponseMapper(_Calibration):
    """Correct the answer after the row's text, so that it still answers the question.

    See calibrate_qa_mapper. The reply is the answer alone, or the last group of
    `output_pattern`. A row whose replies do not fit is dropped; with `compat: data_juicer` it
    stays as it was.
    """

    prompt_name: ClassVar = "calibrate_response"
    writes: ClassVar = ("response",)


@dataclass(frozen=True, kw_only=True)
class OptimizeQaMapper(PairWriting, EitherWriting):
    """Have a model make question and answer clearer and more thorough.

    The new texts take the place of the old ones. The model is a folder or one of the recipe's
    `endpoints`, with `is_hf_model: false` a model of an API. `qa_pair_template` (with `{}`
    twice) says how the pair is shown, `output_pattern` reads replies of another form than the
    prompt's JSON; `【问题】 … 【回答】 …`, the form of Data-Juicer's own prompt, is read too. A
    row whose replies do not fit is dropped; with `compat: data_juicer` it stays as it was.
    `hf_model` is what older recipes call the model.
    """

    hf_model: str | None = None

    prompt_name: ClassVar = "optimize_qa"
    prompt_fields: ClassVar = ("qa_pair", "query", "response")

    def model_name(self) -> str:
        """`api_or_hf_model`, or what older recipes say."""
        return self.hf_model or super().model_name()


@dataclass(frozen=True, kw_only=True)
class OptimizeQueryMapper(OptimizeQaMapper):
    """Have a model make the question more specific, so that the answer still answers it.

    See optimize_qa_mapper. The reply is the question alone, or the last group of
    `output_pattern` (which Data-Juicer does not look at here). A row whose replies do not fit
    is dropped; with `compat: data_juicer` it stays as it was.
    """

    prompt_name: ClassVar = "optimize_query"
    writes: ClassVar = ("query",)


@dataclass(frozen=True, kw_only=True)
class OptimizeResponseMapper(OptimizeQaMapper):
    """Have a model make the answer more thorough, so that it still answers the question.

    See optimize_qa_mapper. The reply is the answer alone, or the last group of
    `output_pattern` (which Data-Juicer does not look at here). A row whose replies do not fit
    is dropped; with `compat: data_juicer` it stays as it was.
    """

    prompt_name: ClassVar = "optimize_response"
    writes: ClassVar = ("response",)
