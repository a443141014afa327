"""Filters by how likely a language model finds an answer: alone, behind its question, or more."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from vlforge.ops.base import Bounds, TextFilter, look_up
from vlforge.ops.batch import Batch
from vlforge.ops.index import name_of
from vlforge.types import Drop, Need, RecipeError, Row

NOTHING = "no answer to score"
"""Reason of rows of whose text a language model says nothing."""
_FIELD = re.compile(r"\{([A-Za-z_][\w.]*)\}")
_SURE = 1e-9
"""The least loss: what is certain has none, and nothing is divided by it."""
_HIGHEST = 700.0
"""The greatest loss whose exponential is a number."""


class Spoken(NamedTuple):
    """The messages of a row, without roles; the last one is the answer."""

    messages: tuple[str, ...]

    def behind(self, demo: Spoken | None = None) -> tuple[str, str]:
        """What stands before the answer, a demonstration first, and the answer."""
        said = (*demo.messages, *self.messages) if demo else self.messages
        answer = said[-1].strip()
        whole = " ".join(said).strip()
        return whole[: len(whole) - len(answer)], answer


@dataclass(frozen=True, kw_only=True)
class LanguageJudge(TextFilter):
    """What filters share that score answers by a language model.

    `hf_model` is the folder of a causal language model, or of an image-text model, whose
    language model is taken. A row's `messages` (their `content`) are scored where it has
    them: the last one is the answer, those before it are the question. Else
    `query_template` makes the question (by default none) and `response_template` the
    answer (by default the text); `{field}` stands for a field of the row.
    """

    hf_model: str = "Qwen/Qwen2.5-0.5B"
    min_score: float = 1.0
    max_score: float = 100.0
    query_template: str | None = None
    response_template: str | None = None
    model_params: dict[str, Any] = field(default_factory=dict)

    needs: ClassVar = Need.MODEL

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the score."""
        return ((self.min_score, self.max_score),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        rows = [self.spoken(item.row, batch) for item in batch.items]
        good = [at for at, row in enumerate(rows) if isinstance(row, Spoken)]
        scores = self.scores(batch, [row for row in rows if isinstance(row, Spoken)])
        found: list[Any] = list(rows)
        for at, score in zip(good, scores, strict=True):
            found[at] = Drop("", NOTHING) if score is None else score
        return (found,)

    def scores(self, batch: Batch, rows: Sequence[Spoken]) -> list[float | None]:
        """One score per row; None where there is nothing to score."""
        raise NotImplementedError

    def losses(self, batch: Batch, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Mean negative log-probability of the answers behind what stands before them."""
        if not pairs:
            return []
        model = batch.context.language(self.hf_model, name_of(type(self).__name__))
        return [
            max(-math.fsum(values) / len(values), _SURE) if values else None
            for values in model.log_probs(pairs)
        ]

    def spoken(self, row: Row, batch: Batch | None, system: str = "") -> Spoken | Drop:
        """The messages of a row, after those of the system."""
        head = (system,) if system else ()
        listed = row.get("messages")
        if isinstance(listed, list) and listed:
            said = [one.get("content") if isinstance(one, Mapping) else None for one in listed]
            if not all(isinstance(one, str) for one in said):
                return Drop("", "message without text", None, _shown(listed), None)
            return Spoken((*head, *(self._plain(str(one), batch) for one in said)))
        answer = self.response_template or f"{{{self.text_key}}}"
        filled = [self._filled(one, row, batch) for one in (self.query_template or "", answer)]
        fault = next((one for one in filled if isinstance(one, Drop)), None)
        return fault or Spoken((*head, *map(str, filled)))

    def _filled(self, template: str, row: Row, batch: Batch | None) -> str | Drop:
        names = _FIELD.findall(template)
        values = {name: look_up(row, name) for name in names}
        gone = next((name for name, value in values.items() if value is None), None)
        if gone is not None:
            return Drop("", "field is missing", None, gone, None)
        return _FIELD.sub(lambda found: self._plain(str(values[found[1]]), batch), template)

    def _plain(self, text: str, batch: Batch | None) -> str:
        is_cut = self.ignore_special_tokens and batch is not None
        return batch.context.plain(text) if is_cut and batch is not None else text


@dataclass(frozen=True, kw_only=True)
class LlmPerplexityFilter(LanguageJudge):
    """Keep texts whose perplexity under a language model is within bounds.

    The exponential of the mean negative log-probability of the answer's tokens, behind
    the question where there is one. `hf_model` is the folder of a causal language model,
    or of an image-text model, whose language model is taken. A row's `messages` are
    scored where it has them, the last one behind those before it; else `query_template`
    makes the question (none by default) and `response_template` the answer (the text by
    default), `{field}` standing for a field of the row. A text begins behind the model's
    first token, or the end of another text where it has none; Data-Juicer leaves a text's
    first token out there. A text longer than the model is read in windows, which
    Data-Juicer does not.
    """

    stats: ClassVar = ("llm_perplexity",)

    def scores(self, batch: Batch, rows: Sequence[Spoken]) -> list[float | None]:
        """Perplexities."""
        losses = self.losses(batch, [row.behind() for row in rows])
        return [None if one is None else math.exp(min(one, _HIGHEST)) for one in losses]


@dataclass(frozen=True, kw_only=True)
class InstructionFollowingDifficultyFilter(LanguageJudge):
    """Keep rows whose instruction helps a language model to their answer as much as wanted (IFD).

    The mean negative log-probability of the answer behind the question by that of the
    answer alone (Li et al. 2023, arXiv 2308.12032): near 0 where the question gives the
    answer away, 1 where it says nothing of it, above where it misleads. The paper takes the
    highest values below 1 (`min_score: 0`, `max_score: 1` and a selector); the bounds that
    stand here are Data-Juicer's. `ratio_of: perplexity` divides perplexities, as Superfiltering
    does. Questions and answers are told as in `llm_perplexity_filter`.
    """

    ratio_of: Literal["loss", "perplexity"] = "loss"

    stats: ClassVar = ("ifd_score",)

    def scores(self, batch: Batch, rows: Sequence[Spoken]) -> list[float | None]:
        """Ratios."""
        pairs = [row.behind() for row in rows]
        losses = self.losses(batch, [*pairs, *(("", answer) for _, answer in pairs)])
        both = zip(losses[: len(rows)], losses[len(rows) :], strict=True)
        return [None if a is None or b is None else self._ratio(a, b) for a, b in both]

    def _ratio(self, asked: float, alone: float) -> float:
        if self.ratio_of == "loss":
            return asked / alone
        return math.exp(max(-_HIGHEST, min(asked - alone, _HIGHEST)))


@dataclass(frozen=True, kw_only=True)
class InContextInfluenceFilter(LanguageJudge):
    """Keep rows that help a language model with validation rows when they stand before them.

    The mean, over the validation rows, of the loss of a validation answer behind its own
    question by that behind the row and its question: above 1 where the row helps. With
    `valid_as_demo` the other way round: what the validation rows do for the row's answer.
    `valid_dataset` lists the validation rows, or names a file with one JSON object a line;
    the first `n_shot` of them count (all by default); `task_desc` stands before each.
    Questions and answers are told as in `llm_perplexity_filter`.
    """

    valid_dataset: list[dict[str, Any]] | str | None = None
    task_desc: str | None = None
    valid_as_demo: bool = False
    n_shot: int | None = None

    stats: ClassVar = ("in_context_influence",)

    def __post_init__(self) -> None:
        op = "in_context_influence_filter"
        for row in validation_rows(self.valid_dataset, self.n_shot, op):
            found = self.spoken(row, None)
            if isinstance(found, Drop):
                raise RecipeError(f"{op}.valid_dataset: {found.reason}: {found.value}")

    def scores(self, batch: Batch, rows: Sequence[Spoken]) -> list[float | None]:
        """Mean ratios."""
        shown = self._validation(batch)
        if self.valid_as_demo:
            alone = self.losses(batch, [row.behind() for row in rows])
            pairs = [row.behind(demo) for row in rows for demo in shown]
            without = [one for one in alone for _ in shown]
        else:
            alone = self.losses(batch, [one.behind() for one in shown])
            pairs = [one.behind(row) for row in rows for one in shown]
            without = alone * len(rows)
        behind = self.losses(batch, pairs)
        both = zip(without, behind, strict=True)
        ratios = [None if a is None or b is None else a / b for a, b in both]
        some = [ratios[at : at + len(shown)] for at in range(0, len(ratios), len(shown))]
        return [_mean(row) for row in some]

    def _validation(self, batch: Batch) -> list[Spoken]:
        listed = validation_rows(self.valid_dataset, self.n_shot, "in_context_influence_filter")
        found = (self.spoken(row, batch, self.task_desc or "") for row in listed)
        return [one for one in found if isinstance(one, Spoken)]


def validation_rows(
    given: list[dict[str, Any]] | str | None, n_shot: int | None, op: str
) -> list[dict[str, Any]]:
    """The first `n_shot` rows of a list, or of a file with one JSON object a line.

    Raises:
        RecipeError: there are none, or the file cannot be read.
    """
    rows = _rows_of(given, op) if isinstance(given, str) else list(given or ())
    if not rows or (n_shot is not None and n_shot < 1):
        raise RecipeError(
            f"{op}.valid_dataset tells of no rows: list some, or name a file with one JSON "
            "object a line (n_shot of them, at least 1)"
        )
    return rows[:n_shot]


def _rows_of(path: str, op: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise RecipeError(f"{op}.valid_dataset: {path} cannot be read: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise RecipeError(f"{op}.valid_dataset: {path} holds other things than JSON objects")
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _shown(value: Any) -> str:
    return repr(value)[:160]
