"""Filters that have a language model judge texts: quality, difficulty, relevance, conditions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.ops.base import look_up
from vlforge.ops.batch import Batch, Context
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.replies import UnfitError, said
from vlforge.ops.synthesis.text_writing import NO_TEXT, filled
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.ops.text.language_models import validation_rows
from vlforge.ops.text.pieces import sound
from vlforge.ops.text.verdicts import NO_VERDICT, EitherMarkJudge, Judge, Verdict, either
from vlforge.types import Caption, Drop, EndpointSpec, RecipeError, Row

FIELD = "**{field_name}**\n{field_data}"
"""How a field is shown to the model."""
_ANSWER = re.compile(r"\b(yes|no)\b|(是|否)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TextJudge(EitherMarkJudge):
    """Has the fields of a row judged, by default its text.

    `input_keys` are the fields, `field_names` what the model is told they are;
    `field_template` makes the words of one, `input_template` the user's turn of `{data}`.
    """

    input_keys: list[str] | None = None
    field_names: list[str] | None = None
    input_template: str | None = None
    field_template: str | None = None

    prompt_fields: ClassVar[tuple[str, ...]] = ("data",)
    shown: ClassVar = "{data}"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self._keys()) != len(self._names()):
            raise RecipeError(
                f"input_keys are {self._keys()} and field_names {self._names()}: one name for each"
            )
        if self.input_template is not None and "{data}" not in self.input_template:
            raise RecipeError("input_template does not say where {data} goes")

    def prompt(self) -> Prompt:
        """The words, with the recipe's template for the user's turn where it has one."""
        found = super().prompt()
        return found if self.input_template is None else found._replace(user=self.input_template)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        words = self.prompt().fill(**self.more(batch.context))
        asked = [self._asks(item.row, words, batch.context) for item in batch.items]
        found = self.ask(batch, asked, self.verdict)
        if self.compat == "data_juicer":
            found = [NO_VERDICT if isinstance(one, Drop) else one for one in found]
        return tuple([_part(one, at) for one in found] for at in range(len(self.stats)))

    def more(self, context: Context) -> dict[str, str]:
        """What else the prompt is told."""
        return {}

    def data(self, row: Row, context: Context | None) -> str:
        """The fields of a row, in words."""
        told = []
        for key, name in zip(self._keys(), self._names(), strict=True):
            value = look_up(row, key)
            if value is not None:
                words = sound(str(value))
                words = words if context is None else plain_words(words, context)
                template = self.field_template or FIELD
                told.append(filled(template, field_name=name, field_data=words))
        return "\n\n".join(told)

    def _asks(self, row: Row, words: Prompt, context: Context) -> Asks:
        values = [look_up(row, key) for key in self._keys()]
        if not any(plain_words(str(value), context) for value in values if value is not None):
            return Drop("", NO_TEXT)
        return [Asked.of(words.fill(data=self.data(row, context)))]

    def _keys(self) -> list[str]:
        return [self.text_key] if self.input_keys is None else self.input_keys

    def _names(self) -> list[str]:
        return ["Text"] if self.field_names is None else self.field_names


@dataclass(frozen=True, kw_only=True)
class LlmAnalysisFilter(TextJudge):
    """Keep texts to which a language model gives good marks: clarity, relevance, use, fluency.

    Each dimension is marked from 1 to 5; the score is the mean of `dim_required_keys` by 5.
    `input_keys` are the fields to judge, `field_names` what the model is told they are.
    `prompt_file` brings a prompt of your own, which has to ask for the same form of JSON; so
    does a `system_prompt`. A reply without the marks is asked for again, `try_num` times in
    all, then the row is dropped with that reason; Data-Juicer notes a score of 0 and keeps
    it here, which `compat: data_juicer` brings back. The model's whole reply and its tags
    stand among the statistics; Data-Juicer puts each tag beside them under a name that the
    model chose.
    """

    prompt_name: ClassVar = "judge_analysis"
    dimensions: ClassVar = ("clarity", "relevance", "usefulness", "fluency")
    stats: ClassVar = ("llm_analysis_score", "llm_analysis_record", "llm_analysis_tags")

    def keep(self, *values: Any) -> bool:
        """Whether the score is within the bounds."""
        is_unknown = self.compat == "data_juicer" and not values[0]
        return is_unknown or super().keep(*values)


@dataclass(frozen=True, kw_only=True)
class LlmQualityScoreFilter(TextJudge):
    """Keep texts of good quality as a language model sees it.

    As `llm_analysis_filter`, by accuracy, grammar, informativeness and coherence. A row
    without a usable reply is dropped with that reason; Data-Juicer drops it for a score of
    0, which `compat: data_juicer` brings back.
    """

    prompt_name: ClassVar = "judge_quality"
    dimensions: ClassVar = ("accuracy", "grammar", "informativeness", "coherence")
    stats: ClassVar = ("llm_quality_score", "llm_quality_record", "llm_quality_tags")


@dataclass(frozen=True, kw_only=True)
class LlmDifficultyScoreFilter(TextJudge):
    """Keep texts that are as hard as wanted in a language model's eyes.

    As `llm_analysis_filter`, by linguistic complexity, conceptual depth, prior knowledge,
    step complexity and ambiguity, 5 the hardest. A row without a usable reply is dropped
    with that reason; Data-Juicer drops it for a score of 0, which `compat: data_juicer`
    brings back.
    """

    prompt_name: ClassVar = "judge_difficulty"
    dimensions: ClassVar = (
        "linguistic_complexity", "conceptual_depth", "prior_knowledge", "step_complexity",
        "ambiguity",
    )  # fmt: skip
    stats: ClassVar = ("llm_difficulty_score", "llm_difficulty_record", "llm_difficulty_tags")


@dataclass(frozen=True, kw_only=True)
class LlmTaskRelevanceFilter(TextJudge):
    """Keep texts that would help with a task, in a language model's eyes.

    The task is told by `task_desc`, by rows of it (`valid_dataset`: a list, or a file with
    one JSON object a line, of which the first `n_shot` are shown), or both. As
    `llm_analysis_filter`, by topical relevance, linguistic style match, task match,
    knowledge alignment and potential utility. A row without a usable reply is dropped with
    that reason; Data-Juicer drops it for a score of 0, which `compat: data_juicer` brings
    back.
    """

    valid_dataset: list[dict[str, Any]] | str | None = None
    task_desc: str | None = None
    n_shot: int | None = None

    prompt_name: ClassVar = "judge_task_relevance"
    prompt_fields: ClassVar = ("task", "data")
    shown: ClassVar = "{task}\n\n{data}"
    dimensions: ClassVar = (
        "topical_relevance", "linguistic_style_match", "task_match", "knowledge_alignment",
        "potential_utility",
    )  # fmt: skip
    stats: ClassVar = (
        "llm_task_relevance", "llm_task_relevance_record", "llm_task_relevance_tags",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.task_desc or "").strip() and not self.valid_dataset:
            raise RecipeError(
                "llm_task_relevance_filter knows no task: set task_desc, or valid_dataset to "
                "rows of it"
            )
        self._task(None)

    def more(self, context: Context) -> dict[str, str]:
        """The task."""
        return {"task": self._task(context)}

    def _task(self, context: Context | None) -> str:
        told = [self.task_desc.strip()] if self.task_desc else []
        if self.valid_dataset:
            rows = validation_rows(self.valid_dataset, self.n_shot, "llm_task_relevance_filter")
            shown = [self.data(row, context) for row in rows]
            if not all(shown):
                raise RecipeError(
                    f"llm_task_relevance_filter.valid_dataset: a row has none of {self._keys()}"
                )
            told.append("Samples of it:\n" + "\n\n".join(f"---\n{one}" for one in shown))
        return "\n\n".join(told)


@dataclass(frozen=True, kw_only=True)
class LlmConditionFilter(Judge):
    """Keep texts that meet a condition, told in words and judged by a language model.

    `condition` says it ("is about cooking"). `knowledge_grounding_fixed` is told beside it,
    or the row's field `knowledge_grounding_key`; `examples` are shown with `strategy:
    few_shot`; `cot` has the model think before it answers, `cot_shot` is both. A text that
    is empty does not meet it. A reply that says neither yes nor no is asked for again,
    `try_num` times in all, then the row is dropped with that reason; Data-Juicer takes it
    for a no, which `compat: data_juicer` brings back. Tokens are in the account of the
    endpoint, not among the statistics.
    """

    condition: str = ""
    api_or_hf_model: str = "gpt-4o"
    is_hf_model: bool = False
    enable_vllm: bool = False
    knowledge_grounding_key: str | None = None
    knowledge_grounding_fixed: str | None = None
    strategy: Literal["direct", "cot", "few_shot", "cot_shot"] | None = None
    examples: str | None = None

    prompt_name: ClassVar = "judge_condition"
    prompt_fields: ClassVar = ("condition", "background", "examples", "text", "form")
    shown: ClassVar = "Condition: {condition}\n{background}{examples}\nText:\n{text}\n\n{form}"
    stats: ClassVar = ("llm_condition_filter_result",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.condition.strip():
            raise RecipeError("llm_condition_filter.condition is empty; say what texts have to be")
        if self._is_shown and not self.examples:
            raise RecipeError(f"strategy {self.strategy} shows examples; give some")

    def judge(self) -> str | EndpointSpec:
        """A folder or an endpoint of the recipe if `is_hf_model`, else an API's model."""
        return either(self)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        asked = [self._asks(item.row, batch.context) for item in batch.items]
        found = [False if one is None else one for one in self.ask(batch, asked, self.answer)]
        if self.compat == "data_juicer":
            found = [False if isinstance(one, Drop) else one for one in found]
        return (found,)

    def keep(self, *values: Any) -> bool:
        """Whether the model said yes."""
        return bool(values[0]) != self.reversed_range

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """The condition and what the model said of it."""
        return Drop(name, "condition not met", self.stats[0], values[0], self.condition)

    def answer(self, reply: Caption) -> bool:
        """Whether a reply says yes: by its first word, or its last after thinking.

        Raises:
            UnfitError: it says neither.
        """
        found = _ANSWER.findall(said(reply.text))
        if not found:
            raise UnfitError("the reply says neither yes nor no")
        word = "".join(found[-1 if self._thinks else 0])
        return word.lower() in ("yes", "是")

    def _asks(self, row: Row, context: Context) -> Asks:
        value = look_up(row, self.text_key)
        text = plain_words(sound(value), context) if isinstance(value, str) else ""
        if not text:
            return None
        known = self.knowledge_grounding_fixed
        if not known and self.knowledge_grounding_key:
            own = look_up(row, self.knowledge_grounding_key)
            known = None if own is None else str(own)
        form = "Reply with yes or no alone."
        if self._thinks:
            form = "Think in a few short sentences, then end with a line that is yes or no alone."
        return [
            Asked.of(
                self.prompt().fill(
                    condition=self.condition.strip(),
                    background=f"\nTo be taken as known:\n{known}\n" if known else "",
                    examples=f"\nExamples:\n{self.examples}\n" if self._is_shown else "",
                    text=text,
                    form=form,
                )
            )
        ]

    @property
    def _thinks(self) -> bool:
        return self.strategy in ("cot", "cot_shot")

    @property
    def _is_shown(self) -> bool:
        return self.strategy in ("few_shot", "cot_shot")


def _part(found: Verdict | Drop, at: int) -> Any:
    return found if isinstance(found, Drop) else found[at]
