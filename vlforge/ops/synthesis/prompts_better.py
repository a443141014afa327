"""New prompts after the pattern of those that the data holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from vlforge.ops.base import CorpusMapper, Grown, look_up, replaced
from vlforge.ops.batch import Batch, Item
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.ops.synthesis.replies import UnfitError
from vlforge.ops.synthesis.text_writing import filled, parts_of, pattern_of, vllm_notes, whole
from vlforge.ops.synthesis.writing import (
    Asked,
    converse,
    drawing_of,
    reference,
)
from vlforge.types import Caption, Drop, Need, RecipeError, Row

_EXAMPLE = "Prompt {number}:\n{prompt}\n"
_NAME = "optimize_prompt_mapper"


@dataclass(frozen=True, kw_only=True)
class OptimizePromptMapper(CorpusMapper):
    """Write `gen_num` better prompts after the prompts that the rows hold.

    Up to `max_example_num` of them, drawn from all rows whatever their order, are the
    examples of the first; each new one takes the place of the oldest example. New rows
    follow the first row with a prompt and hold its other fields; without
    `keep_original_sample` they alone stay. A prompt that repeats an example is asked for
    again, `retry_num` times in all.

    Data-Juicer writes `gen_num` for every batch, so the batch size and the order of rows
    change how many there are and of what they are made; here it is once for all rows.
    `output_pattern` reads a reply by its first group.
    """

    api_or_hf_model: str = "Qwen/Qwen2.5-7B-Instruct"
    gen_num: int = 3
    max_example_num: int = 3
    keep_original_sample: bool = True
    retry_num: int = 3
    example_template: str | None = None
    prompt_template: str | None = None
    input_template: str | None = None
    output_pattern: str | None = None
    enable_vllm: bool = False
    is_hf_model: bool = False
    prompt_file: str = ""
    system_prompt: str | None = None
    prompt_key: str = "prompt"
    sampling_params: dict[str, Any] | None = field(default_factory=dict)
    model_params: dict[str, Any] | None = field(default_factory=dict)
    api_endpoint: str | None = None
    response_path: str | None = None

    needs: ClassVar = Need.MODEL

    def __post_init__(self) -> None:
        for key in ("gen_num", "max_example_num", "retry_num"):
            if getattr(self, key) < 1:
                raise RecipeError(f"{key} is {getattr(self, key)}; give at least 1")
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 1)
        drawing_of(self.sampling_params)
        self.words()

    @property
    def notes(self) -> tuple[str, ...]:
        """How vLLM is reached, where it is asked for."""
        return vllm_notes(self.api_or_hf_model, self.enable_vllm)

    def words(self) -> Prompt:
        """The prompt, its examples open."""
        found = read_prompt("optimize_prompt", self.prompt_file, ("examples",))
        if self.input_template is not None:
            found = found._replace(user=self.input_template.replace("{}", "{examples}", 1))
        return found if self.system_prompt is None else found._replace(system=self.system_prompt)

    def keys(self, batch: Batch) -> list[Any]:
        return [[item.uid, _text(item, self.prompt_key)] for item in batch.items]

    def learn(self, keys: Iterable[Any]) -> Any:
        """The first row with a prompt, and the prompts to begin with, drawn by the rows' names."""
        first = ""
        drawn: list[list[str]] = []
        for uid, prompt in keys:
            if not prompt:
                continue
            first = first or uid
            drawn = sorted([*drawn, [_rank(uid), prompt]])[: self.max_example_num]
        return {"first": first, "examples": [prompt for _, prompt in drawn]}

    def apply(self, batch: Batch, learned: Any) -> list[Grown | Row | Drop]:  # type: ignore[override]
        return [self._grown(batch, at, learned) for at in range(len(batch.items))]

    def _grown(self, batch: Batch, at: int, learned: Any) -> Grown | Row | Drop:
        item = batch.items[at]
        stays: Grown | Row | Drop = Drop("", "only new prompts stay")
        if self.keep_original_sample:
            stays = item.row
        if item.uid != learned["first"]:
            return stays
        made = self._prompts(batch, at, learned["examples"])
        if not made:
            return stays
        entry = origin(
            _NAME,
            item.uid,
            model=self.api_or_hf_model,
            prompt=self.words().hash,
            seed=batch.context.seed,
        )
        rows = [replaced(item.row, self.prompt_key, prompt) for prompt in made]
        if not self.compat:
            rows = [with_origin(row, entry) for row in rows]
        return Grown(self.keep_original_sample, tuple(rows))

    def _prompts(self, batch: Batch, at: int, examples: Sequence[str]) -> list[str]:
        """The new prompts, each after those before it; one that never fits is left out."""
        item, shown = batch.items[at], list(examples)
        made: list[str] = []
        for number in range(self.gen_num):
            asking = Item(f"{item.uid}/{number}", item.line, item.row)
            found = self._prompt(Batch([asking], batch.context), shown, [*examples, *made])
            if found is not None:
                made.append(found)
                shown = [*shown, found][-self.max_example_num :]
        return made

    def _prompt(self, batch: Batch, shown: Sequence[str], known: Sequence[str]) -> str | None:
        is_here = self.is_hf_model or self.enable_vllm or os.path.isdir(self.api_or_hf_model)
        (found,) = converse(
            batch,
            type(self),
            reference(
                self.api_or_hf_model, self.api_endpoint, self.model_params, is_api=not is_here
            ),
            [[Asked.of(self.words().fill(examples=self._shown(shown)))]],
            drawing_of(self.sampling_params),
            self.retry_num,
            lambda row, place, reply: self._read(reply, known),
        )
        return found[0] if isinstance(found, list) else None

    def _shown(self, prompts: Sequence[str]) -> str:
        if self.prompt_template is None and self.example_template is None:
            return "\n".join(filled(_EXAMPLE, number=str(n), prompt=p)
                             for n, p in enumerate(prompts, 1))  # fmt: skip
        inner = self.prompt_template or "{}\n"
        outer = self.example_template or "\n{}"
        return "".join(outer.replace("{}", inner.replace("{}", prompt, 1), 1) for prompt in prompts)

    def _read(self, reply: Caption, known: Sequence[str]) -> str:
        text = reply.text
        if self.output_pattern is not None:
            text = parts_of(text, pattern_of("output_pattern", self.output_pattern, 1))[0][0]
        found = whole(text.removeprefix("【提示词】"))
        if found in known:
            raise UnfitError("the prompt repeats an example")
        return found


def _text(item: Item, key: str) -> str:
    value = look_up(item.row, key)
    return value.strip() if isinstance(value, str) else ""


def _rank(uid: str) -> str:
    return hashlib.blake2b(uid.encode(), digest_size=8).hexdigest()
