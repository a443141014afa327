"""What filters share that ask a model for marks: what is asked, how replies are read, means."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from vlforge.ops.base import Bounds, Filter
from vlforge.ops.batch import Batch
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.replies import UnfitError, json_in
from vlforge.ops.synthesis.text_writing import vllm_notes
from vlforge.ops.synthesis.writing import Asks, converse, drawing_of, reference
from vlforge.types import Caption, Drop, EndpointSpec, Need, RecipeError

BEST = 5
"""The best mark; the worst is 1."""
_TONGUES = {"zh": "Chinese", "en": "English"}


class Verdict(NamedTuple):
    """What a model says of a row: the mean mark as a share of the best, all, and what it is."""

    score: float | None
    record: dict[str, Any]
    tags: dict[str, str]


NO_VERDICT = Verdict(0.0, {}, {})
"""What Data-Juicer notes of a row about which no reply could be used."""


@dataclass(frozen=True, kw_only=True)
class Judge(Filter):
    """What filters share that ask a model about each row.

    `prompt_file` stands in for the built-in prompt; a `system_prompt` for all of it but what
    is to be judged. A reply that is not in the form asked for is put to the model again,
    `try_num` times in all; then the row is dropped.
    """

    prompt_file: str = ""
    system_prompt: str | None = None
    try_num: int = 3
    sampling_params: dict[str, Any] = field(default_factory=dict)
    model_params: dict[str, Any] = field(default_factory=dict)
    api_endpoint: str | None = None
    response_path: str | None = None

    needs: ClassVar = Need.MODEL
    prompt_name: ClassVar[str] = ""
    prompt_fields: ClassVar[tuple[str, ...]] = ()
    shown: ClassVar[str] = ""
    """The user's turn where a recipe has a system prompt of its own."""

    def __post_init__(self) -> None:
        if self.try_num < 1:
            raise RecipeError(f"try_num is {self.try_num}; give at least 1")
        self.prompt()
        drawing_of(self.sampling_params)

    def prompt(self) -> Prompt:
        """The words, fields open."""
        if self.system_prompt is None:
            return read_prompt(self.prompt_name, self.prompt_file, self.prompt_fields)
        if self.prompt_file:
            found = read_prompt(self.prompt_name, self.prompt_file, self.prompt_fields)
            return found._replace(system=self.system_prompt)
        return Prompt(self.system_prompt, self.shown)

    def judge(self) -> str | EndpointSpec:
        """What the judge is asked for by."""
        raise NotImplementedError

    def ask(self, batch: Batch, asked: Sequence[Asks], read: Callable[[Caption], Any]) -> list[Any]:
        """What `read` makes of the reply about each row; a `Drop`, or None for a row not asked."""
        drawing = drawing_of(self.sampling_params)
        found = converse(
            batch, type(self), self.judge(), asked, drawing, self.try_num,
            lambda at, place, reply: read(reply),
        )  # fmt: skip
        return [one[0] if isinstance(one, list) else one for one in found]


@dataclass(frozen=True, kw_only=True)
class MarkJudge(Judge):
    """A judge of several dimensions, each marked from 1 to 5; their mean by 5 is the score.

    `dim_required_keys` are the dimensions that count; others that the prompt asks for are
    kept in the record.
    """

    min_score: float = 0.5
    max_score: float = 1.0
    dim_required_keys: list[str] | None = None

    dimensions: ClassVar[tuple[str, ...]] = ()

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the score; records and tags have none."""
        return ((self.min_score, self.max_score), *((None, None),) * (len(self.stats) - 1))

    def keep(self, *values: Any) -> bool:
        """Whether the score is within the bounds."""
        return self.fits(values[0], *self.bounds()[0])

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """The score and the bound it broke."""
        reason, bound = self._broken(self.stats[0], values[0], *self.bounds()[0])
        return Drop(name, reason, self.stats[0], values[0], bound)

    def verdict(self, reply: Caption) -> Verdict:
        """What a reply says.

        Raises:
            UnfitError: no JSON, a mark that is missing, or one that is none.
        """
        record = json_in(reply.text, dict[str, Any])
        marks = record.get("dimension_scores")
        if not isinstance(marks, dict):
            raise UnfitError("the JSON has no table dimension_scores")
        wanted = self.dim_required_keys or self.dimensions
        score = sum(_mark(marks, name) for name in wanted) / len(wanted) / BEST
        record["recommendation"] = _listed(record.get("recommendation"))
        return Verdict(score, record, _tags(record.get("tags")))


@dataclass(frozen=True, kw_only=True)
class EitherMarkJudge(MarkJudge):
    """A `MarkJudge` that names its model as Data-Juicer does."""

    api_or_hf_model: str = "gpt-4o"
    is_hf_model: bool = False
    enable_vllm: bool = False
    preferred_output_lang: str | None = None

    def __post_init__(self) -> None:
        if self.preferred_output_lang not in (None, "", *_TONGUES):
            raise RecipeError(
                f"preferred_output_lang is {self.preferred_output_lang!r}; give zh or en"
            )
        super().__post_init__()

    def judge(self) -> str | EndpointSpec:
        """A folder or an endpoint of the recipe if `is_hf_model`, else an API's model."""
        return either(self)

    def prompt(self) -> Prompt:
        """The words, and the language of what is told freely."""
        found = super().prompt()
        if not self.preferred_output_lang:
            return found
        tongue = _TONGUES[self.preferred_output_lang]
        more = (
            f"Write rationale, flags and tags in {tongue}; leave the names of fields as they are."
        )
        return found._replace(system=f"{found.system}\n{more}".strip())

    @property
    def notes(self) -> tuple[str, ...]:
        """How vLLM is reached, where it is asked for."""
        return vllm_notes(self.api_or_hf_model, self.enable_vllm)


def either(op: Any) -> str | EndpointSpec:
    """The model of an operator with Data-Juicer's keys `api_or_hf_model` and `is_hf_model`."""
    is_here = op.is_hf_model or op.enable_vllm or os.path.isdir(op.api_or_hf_model)
    return reference(op.api_or_hf_model, op.api_endpoint, op.model_params, not is_here)


def _mark(marks: dict[str, Any], name: str) -> float:
    mark = marks.get(name)
    try:
        value = float(mark) if isinstance(mark, int | float | str) else None
    except ValueError:
        value = None
    if value is None or isinstance(mark, bool) or not 1 <= value <= BEST:
        raise UnfitError(f"dimension_scores.{name} is {mark!r}, not a mark from 1 to {BEST}")
    return value


def _listed(value: Any) -> list[str]:
    """A recommendation, which models write as a word or as a list of them."""
    values = value if isinstance(value, list) else [value]
    return [str(one).strip() for one in values if one is not None and str(one).strip()]


def _tags(value: Any) -> dict[str, str]:
    """Tags by name, whatever form they came in."""
    if isinstance(value, dict):
        return {str(name): _joined(one) for name, one in value.items()}
    return {} if value in (None, "", []) else {"tags": _joined(value)}


def _joined(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
