"""What BLIP, GIT and encoder-decoder captioners of transformers want otherwise than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlforge.inference.generate import Decoding
    from vlforge.inference.load import Loaded

UNPADDED = ("blip", "git", "vision-encoder-decoder")
"""Types whose words must begin at the first position: prompts cannot be padded."""


def words_apart(model: Any, texts: Sequence[str | None]) -> list[list[int]]:
    """The places of the prompts that may go through the model together."""
    is_unpadded = _type_of(model) in UNPADDED
    together: dict[Any, list[int]] = {}
    for place, text in enumerate(texts):
        key = text if is_unpadded or text is None else ""
        together.setdefault((text is None, key), []).append(place)
    return list(together.values())


def ends_of(loaded: Loaded, decoding: Decoding) -> tuple[Decoding, dict[str, Any]]:
    """Where answers end, and how `generate` is told so; BLIP knows it and must not be told."""
    if _type_of(loaded.model) == "blip":
        end = loaded.model.config.text_config.sep_token_id
        return replace(decoding, eos_ids=(end,)), {}
    ends = list(decoding.eos_ids) or None
    return decoding, {"eos_token_id": ends, "pad_token_id": loaded.tokenizer.pad_token_id}


def inputs_of(model: Any, inputs: Any) -> dict[str, Any]:
    """The processor's inputs as `generate` takes them: GIT goes on from words left open."""
    given = dict(inputs)
    if _type_of(model) == "git" and "input_ids" in given:
        for name in ("input_ids", "attention_mask"):
            given[name] = given[name][:, :-1]
    return given


def _type_of(model: Any) -> str:
    return str(getattr(model.config, "model_type", ""))
