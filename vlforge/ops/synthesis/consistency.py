"""Whether a model that sees the pictures gives a dialogue's answers again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Bounds, Filter, look_up
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.picture_rows import Pair, pairs_of
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.replies import UnfitError, said
from vlforge.ops.synthesis.reply_rules import compared, overlap
from vlforge.ops.synthesis.writing import Asked, Asks, converse, drawing_of, reference
from vlforge.types import Caption, Drawing, Drop, Need, RecipeError

_FIELDS = ("question", "answer")
_YES = re.compile(r"\W*(?:yes|是|对|正确)", re.IGNORECASE)
_NO = re.compile(r"\W*(?:no\b|否|不|错)", re.IGNORECASE)
_DRAWN = {"temperature": 0.7, "max_tokens": 128}


@dataclass(frozen=True, kw_only=True)
class AnswerConsistencyFilter(Filter):
    """Keep dialogues whose answers a model gives again when it is asked afresh.

    `model`, a folder or one of the recipe's `endpoints`, sees the pictures. With `method:
    repeat` it answers every question `times` times without seeing the old answer; a drawn
    answer agrees if its words overlap with the old one's by `min_overlap` (harmonic mean of
    both shares, without articles and punctuation), or if it holds all of an old answer of at
    most three words. With `method: verify` it says yes or no to question and answer, `times`
    times. The statistic is the share that agrees, one per question; a row stays if `all` or
    `any` are within bounds. Rows without a dialogue (`[[human]]: … [[gpt]]: …`) stay. Earlier
    turns are not shown: each question has to stand alone.
    """

    model: str
    method: Literal["repeat", "verify"] = "repeat"
    times: int = 3
    min_agreement: float = 0.5
    max_agreement: float | None = None
    min_overlap: float = 0.5
    any_or_all: Literal["any", "all"] = "all"
    lang: Literal["en", "zh"] = "en"
    prompt_file: str = ""
    try_num: int = 2
    sampling_params: dict[str, Any] | None = field(default_factory=dict)
    model_params: dict[str, Any] | None = field(default_factory=dict)
    api_endpoint: str | None = None

    needs: ClassVar = Need.MODEL
    stats: ClassVar = ("answer_agreement",)

    def __post_init__(self) -> None:
        if self.times < 1 or self.try_num < 1:
            raise RecipeError("times and try_num are 1 or more")
        self.drawing()
        self.prompt()

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the share of agreeing answers."""
        return ((self.min_agreement, self.max_agreement),)

    def prompt(self) -> Prompt:
        """What is asked, fields open."""
        name = "answer_consistency" if self.method == "repeat" else "answer_verification"
        if self.method == "verify" and self.lang == "zh":
            name += "_zh"
        return read_prompt(name, self.prompt_file, _FIELDS)

    def drawing(self) -> Drawing:
        """How answers are drawn."""
        return drawing_of({**_DRAWN, **(self.sampling_params or {})})

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """A list of shares per row, one per question."""
        dialogues = [
            pairs_of(str(look_up(item.row, self.text_key) or ""), batch.context)
            for item in batch.items
        ]
        asked = [
            self._asks(pairs, files, item, batch.context)
            for pairs, files, item in zip(
                dialogues, batch.image_files(self), batch.items, strict=True
            )
        ]
        found = converse(
            batch,
            type(self),
            reference(self.model, self.api_endpoint, self.model_params, False),
            asked,
            self.drawing(),
            self.try_num,
            lambda at, place, reply: self._agrees(dialogues[at][place // self.times], reply),
        )
        return ([self._shares(row) for row in found],)

    def keep(self, *values: Any) -> bool:
        """Whether all or any shares are within bounds; a row without questions stays."""
        fits = [self.fits(share, *self.bounds()[0]) for share in values[0]]
        return not fits or (any if self.any_or_all == "any" else all)(fits)

    def _asks(
        self, pairs: Sequence[Pair], files: Sequence[ImageFile], item: Item, context: Context
    ) -> Asks:
        """Each question as often as it is asked; None for a row without."""
        prompt = self.prompt()
        filled = [
            prompt.fill(question=pair.question, answer=pair.answer)
            for pair in pairs
            for _ in range(self.times)
        ]
        return [Asked.of(one, files) for one in filled] or None

    def _agrees(self, pair: Pair, reply: Caption) -> bool:
        text = said(reply.text)
        if self.method == "verify":
            if _YES.match(text):
                return True
            if _NO.match(text):
                return False
            raise UnfitError("the reply is neither yes nor no")
        wanted, given = compared(pair.answer), compared(text)
        if not wanted:
            return not given
        if len(wanted) == 1 and wanted[0] in _YES_OR_NO:
            return given[:1] == wanted
        if len(wanted) <= _SHORT:
            if any(word in _TURNED and word not in wanted for word in given):
                return False
            if _holds(given, wanted):
                return True
        return overlap(pair.answer, text) >= self.min_overlap

    def _shares(self, row: list[Any] | Drop | None) -> list[float] | Drop:
        if not isinstance(row, list):
            return row or []
        return [
            sum(row[at : at + self.times]) / self.times for at in range(0, len(row), self.times)
        ]


_SHORT = 3
"""Words of an answer that may stand within a longer one."""
_YES_OR_NO = frozenset(("yes", "no", "是", "否"))
_TURNED = frozenset(("no", "not", "never", "neither", "nor", "t", "不", "没", "无"))
"""Words that turn a short answer round; "t" is what is left of "isn't"."""


def _holds(given: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the words stand in a row in the reply."""
    ends = range(len(given) - len(wanted) + 1)
    return any(list(given[at : at + len(wanted)]) == list(wanted) for at in ends)
