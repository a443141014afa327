"""What BLIP, GIT and encoder-decoder captioners of transformers want otherwise than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
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


def inputs_of(loaded: Loaded, inputs: Any) -> dict[str, Any]:
    """The processor's inputs as `generate` takes them: GIT goes on from words left open."""
    given = dict(inputs)
    if _type_of(loaded.model) == "git" and "input_ids" in given:
        ends = {loaded.tokenizer.sep_token_id, loaded.tokenizer.eos_token_id} - {None}
        if set(given["input_ids"][:, -1].tolist()) <= ends:
            given |= {name: given[name][:, :-1] for name in ("input_ids", "attention_mask")}
    return given


class PicturesOnly:
    """A processor for encoder-decoders, whose folders hold its two parts only."""

    def __init__(self, folder: Path):
        from transformers import AutoImageProcessor, AutoTokenizer

        self.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def __call__(self, images: Any, text: Any = None, return_tensors: str = "pt", **_: Any) -> Any:
        if text is not None:
            raise ValueError("it writes captions without a prompt; leave prompt out")
        return self.image_processor(images=images, return_tensors=return_tensors)


def whole_processor(folder: Path, model: Any, processor: Any) -> Any:
    """The folder's processor, put together where it holds the parts only."""
    if _type_of(model) == "vision-encoder-decoder" and not hasattr(processor, "image_processor"):
        return PicturesOnly(folder)
    return processor


def _type_of(model: Any) -> str:
    return str(getattr(model.config, "model_type", ""))
