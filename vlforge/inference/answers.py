"""The one way in which any opened model is asked: prompts of its kind, answers by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlforge.inference.generate import Decoding, Generated, generate
from vlforge.inference.load import Loaded
from vlforge.inference.native import NativePrompt, native_generate, native_prompt
from vlforge.inference.prompts import Batches, Prompt, embed, prompt_of
from vlforge.inference.text_prompts import text_generate, text_prompt
from vlforge.types import Caption, ModelError, Sample

ANSWERING = ("family", "native", "language")
"""Kinds of models that answer."""


def with_words(loaded: Loaded, use: str, kinds: Sequence[str] = ANSWERING) -> Loaded:
    """The model, if it is of a kind that can be used so.

    Raises:
        ModelError: it is not.
    """
    if loaded.kind not in kinds:
        raise ModelError(
            f"{loaded.path} holds a {loaded.kind} model, which cannot {use}; "
            "give the folder of a train stage"
        )
    return loaded


def prompt_for(loaded: Loaded, sample: Sample) -> Prompt | NativePrompt:
    """A conversation as the model takes it, open for an answer; its pictures stay files.

    Raises:
        DataError: turns that its template cannot hold, or tags that do not match the pictures.
        ModelError: pictures for a model without eyes.
    """
    kinds: dict[str, Any] = {"native": native_prompt, "language": text_prompt}
    prompt: Prompt | NativePrompt = kinds.get(loaded.kind, prompt_of)(loaded, sample)
    return prompt


def drawn(
    loaded: Loaded, prompts: Sequence[Any], decoding: Decoding, keys: Sequence[int]
) -> list[list[Generated]]:
    """`decoding.candidates` answers per prompt of one batch.

    Raises:
        LengthError: prompts that the model has no room for.
    """
    if loaded.kind == "native":
        return native_generate(loaded, prompts, decoding, keys)
    if loaded.kind == "language":
        return text_generate(loaded, prompts, decoding, keys)
    return generate(loaded.language, loaded.tokenizer, embed(loaded, prompts), decoding, keys)


def draw(
    loaded: Loaded, prompts: Sequence[Any], decoding: Decoding, keys: Sequence[int]
) -> list[list[Caption]]:
    """The texts of `drawn`, and how sure the model was of each."""
    made = drawn(loaded, prompts, decoding, keys)
    return [[Caption(one.text, one.confidence) for one in row] for row in made]


def draw_all(
    loaded: Loaded,
    batches: Batches,
    items: Sequence[tuple[int, Prompt | NativePrompt]],
    decoding: Decoding,
) -> list[list[Caption]]:
    """Candidates per `(key, prompt)`, batch after batch."""

    def work(group: list[tuple[int, Any]]) -> list[list[Caption]]:
        return draw(loaded, [prompt for _, prompt in group], decoding, [key for key, _ in group])

    return batches.run(items, work, length=lambda item: len(item[1]))
