"""Short tasks about a text: rewriting a sentence, naming its class, answering the row's query."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.replies import UnfitError, said
from vlforge.ops.synthesis.text_writing import (
    LocalWriting,
    TextWriting,
    missing,
    plain_field,
    unquoted,
    vllm_notes,
    whole,
)
from vlforge.ops.synthesis.writing import Asked, Asks, drawing_of
from vlforge.types import Caption, Drawing, RecipeError, Row

TEXT_TAGS = "__dj__text_tags__"
"""Data-Juicer's field for the class of a text, a list of one."""
_TAGS = ("数学", "代码", "翻译", "角色扮演", "开放领域问答", "特定领域问答", "提取", "生成",
         "头脑风暴", "分类", "总结", "改写", "其他")  # fmt: skip
_AROUND = " \t\n.。,，;；:：!！\"'“”‘’`*【】[]()（）"


@dataclass(frozen=True, kw_only=True)
class SentenceAugmentationMapper(TextWriting):
    """Write a sentence anew as `task_sentence` says, into the field `text_key_second`.

    For single sentences, not documents. Both keys must be given: without a task
    Data-Juicer empties both fields. Sampled at `temperature` by seed and row, greedy at 0
    or with `num_beams` above 1.
    """

    hf_model: str = "Qwen/Qwen2-7B-Instruct"
    task_sentence: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.2
    top_p: float | None = None
    num_beams: int = 1
    text_key_second: str | None = None

    prompt_name: ClassVar = "sentence_augmentation"
    prompt_fields: ClassVar = ("text", "task")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task_sentence:
            raise RecipeError("task_sentence is empty; say what to do with the sentence")
        if not self.text_key_second:
            raise RecipeError("text_key_second is empty; name the field of the new sentence")

    def model_name(self) -> str:
        """`hf_model`."""
        return self.hf_model

    def drawing(self) -> Drawing:
        """How sentences are drawn: the operator's own keys, then `sampling_params`."""
        own: dict[str, Any] = {
            "temperature": 0.0 if self.num_beams > 1 else self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
        }
        own |= {} if self.top_p is None else {"top_p": self.top_p}
        return drawing_of(own | self.sampling_params)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """The sentence and the task."""
        text = plain_field(item, self.text_key, context)
        prompt = self.prompt().fill(text=text, task=self.task_sentence or "")
        return missing((text,)) or [Asked.of(prompt)]

    def read(self, item: Item, place: int, reply: Caption) -> str:
        """The new sentence."""
        return whole(reply.text)

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the new sentence."""
        return replaced(item.row, str(self.text_key_second), values[0])


@dataclass(frozen=True, kw_only=True)
class TextTaggingByPromptMapper(LocalWriting):
    """Have a model say which class of `tag_list` a text is of, into `__dj__text_tags__`.

    `prompt` stands for the built-in question; it shows `{text}` and `{tag_list}`. A reply is
    a class of the list, whatever marks stand around it; another one is asked for again, then
    the row is dropped. With `compat: data_juicer` any reply is taken as it is.
    `tensor_parallel_size`, `max_model_len` and `max_num_seqs` are vLLM's own, to be told to
    its server.
    """

    prompt: str = ""  # type: ignore[assignment]
    tag_list: tuple[str, ...] = _TAGS
    enable_vllm: bool = True
    tensor_parallel_size: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 256

    prompt_name: ClassVar = "text_tagging"
    prompt_fields: ClassVar = ("text", "tag_list")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tag_list or not all(map(_bare, self.tag_list)):
            raise RecipeError(f"tag_list is {list(self.tag_list)}; name the classes")

    def words(self) -> Prompt:
        """The recipe's `prompt`, else the file's words."""
        if self.prompt:
            return Prompt(self.system_prompt or "", self.turn("prompt", self.prompt))
        return TextWriting.prompt(self)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """The text and the classes."""
        text = plain_field(item, self.text_key, context)
        prompt = self.words().fill(text=text, tag_list=", ".join(self.tag_list))
        return missing((text,)) or [Asked.of(prompt)]

    def read(self, item: Item, place: int, reply: Caption) -> str:
        """The class, as the list writes it."""
        text = said(reply.text)
        if self.compat == "data_juicer":
            return text
        named = [tag for tag in self.tag_list if _bare(tag) == _bare(text)]
        if not named:
            wrong = f"the reply is none of the classes {', '.join(self.tag_list)}"
            raise UnfitError(wrong, "class is none of the list")
        return named[0]

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with its class."""
        return {**item.row, TEXT_TAGS: [values[0]]}


def _bare(text: str) -> str:
    return unquoted(text).strip(_AROUND).casefold()


@dataclass(frozen=True, kw_only=True)
class LlmRayVllmEnginePipeline(TextWriting):
    """Answer the row's query by a model, many rows at a time, into the row's response.

    Data-Juicer runs vLLM inside Ray for this. Here vLLM is a server that the recipe names
    under `endpoints` (or `api_url` the address of one), and workers ask it side by side;
    `accelerator_type` and `engine_kwargs` are that server's. The key comes from the
    environment. A row without a query or answer is dropped.
    """

    api_or_hf_model: str = "Qwen/Qwen2.5-7B-Instruct"
    is_hf_model: bool = True
    accelerator_type: str | None = None
    engine_kwargs: dict[str, Any] | None = None
    api_url: str | None = None
    api_key: str | None = None
    query_key: str = "query"
    response_key: str = "response"

    shows_pictures: ClassVar = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.api_key is not None:
            raise RecipeError("api_key does not belong in a recipe; set OPENAI_API_KEY")

    def prompt(self) -> Prompt:
        """The query alone, behind the recipe's system prompt."""
        if self.prompt_file:
            return super().prompt()
        return Prompt(self.system_prompt or "", "{query}")

    def model_name(self) -> str:
        """`api_or_hf_model`."""
        return self.api_or_hf_model

    def is_api(self) -> bool:
        """As the key says, unless there is a folder of that name."""
        return not self.is_hf_model and not os.path.isdir(self.api_or_hf_model)

    def server(self) -> str | None:
        """The address of a server that the operator names itself."""
        return self.api_url or self.api_endpoint

    @property
    def notes(self) -> tuple[str, ...]:
        """How vLLM is reached, and keys that are its server's."""
        idle = [key for key in ("accelerator_type", "engine_kwargs") if getattr(self, key)]
        told = [f"without effect here: {', '.join(idle)}"] if idle else []
        return (*told, *vllm_notes(self.api_or_hf_model, self.is_hf_model))

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """The row's query, with its pictures where they are shown."""
        query = plain_field(item, self.query_key, context)
        prompt = self.prompt().fill(query=query)
        return missing((query,)) or [Asked.of(prompt, files if self.shows_pictures else ())]

    def read(self, item: Item, place: int, reply: Caption) -> str:
        """The answer as it is."""
        found = said(reply.text)
        if not found and not self.compat:
            raise UnfitError("the reply is empty")
        return found

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the answer."""
        return replaced(item.row, self.response_key, values[0])


@dataclass(frozen=True, kw_only=True)
class VlmRayVllmEnginePipeline(LlmRayVllmEnginePipeline):
    """Answer the row's query about its pictures by a model, into the row's response.

    See llm_ray_vllm_engine_pipeline. The pictures are shown before the query, where
    Data-Juicer shows them behind it.
    """

    shows_pictures: ClassVar = True
