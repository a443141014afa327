"""Checkpoints in the layout that LLaVA itself writes: the whole model in one folder."""

from __future__ import annotations

from pathlib import Path

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.hints import write_hint
from vlforge.checkpoints.llava_fields import (
    OUR_TOWER,
    TOWER_FOLDER,
    checkpoint_of,
    is_llava,
    our_name,
    their_config,
    their_weights,
    tower_name,
)
from vlforge.checkpoints.tokenizers import copy_tokenizer
from vlforge.checkpoints.weights import INDEXES, SINGLES, open_weights, write_weights
from vlforge.models.llava import LlavaModel
from vlforge.models.parts.image_processor import FILE_NAME
from vlforge.models.reading import read_config, write_json


class LlavaLayout:
    """`config.json` of LLaVA's own classes, weights with `model.mm_projector.*` among them."""

    name = "llava"
    says = "LLaVA's own: config.json (llava_llama, …), weights with model.mm_projector.*"

    def matches(self, path: Path) -> bool:
        """A folder of LLaVA's own configuration with a language model's weights."""
        if not (path / "config.json").is_file() or not is_llava(read_config(path)):
            return False
        return any((path / name).is_file() for name in (*INDEXES, *SINGLES[:2]))

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The folder; its encoder where it is not inside, from `parts` or where it is named."""
        fields = read_config(path)
        weights = {our_name(name): lazy for name, lazy in open_weights(path).items()}
        return checkpoint_of(path, self.name, fields, weights, parts)

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The folder as LLaVA's trainer leaves it, the encoder inside.

        An encoder that no hub has is written as a folder of its own within.
        """
        apart = tower_name(checkpoint) == TOWER_FOLDER
        fields = their_config(checkpoint, holds_tower=not apart)
        weights = how.cast(checkpoint.weights)
        own = [name for name in weights if not (apart and name.startswith(OUR_TOWER))]
        write_weights(
            their_weights(weights, own),
            out,
            kind=how.kind,
            shard_bytes=how.shard_bytes,
            on_shard=how.on_shard,
        )
        if apart:
            write_tower(checkpoint, out / TOWER_FOLDER, how)
            how.say(
                f"the encoder is in {TOWER_FOLDER}/; LLaVA's own code wants its full path in "
                "config.json as mm_vision_tower"
            )
        if checkpoint.config.image_aspect_ratio == "stretch":
            how.say("the model squeezes pictures into squares, which LLaVA's own code does not do")
        if (kind := how.language_dtype or how.dtype) is not None:
            fields["torch_dtype"] = str(kind).removeprefix("torch.")
        write_json(out / "config.json", fields)
        if checkpoint.tokenizer is not None:
            copy_tokenizer(checkpoint.tokenizer, out)
        write_hint(checkpoint, out)


def write_tower(checkpoint: Checkpoint, out: Path, how: Writing) -> None:
    """The vision encoder as a folder of transformers."""
    out.mkdir()
    weights = {
        "vision_model." + name.removeprefix(OUR_TOWER): lazy
        for name, lazy in how.cast(checkpoint.weights).items()
        if name.startswith(OUR_TOWER)
    }
    write_weights(weights, out, kind=how.kind)
    write_json(out / "config.json", checkpoint.config.vision_config.to_dict())
    if checkpoint.processor is not None:
        write_json(out / FILE_NAME, checkpoint.processor.to_json())


def read_llava(path: Path, vision: Path | None = None) -> LlavaModel:
    """A LLaVA checkpoint as a model, in fp32.

    Args:
        vision: folder of its encoder; by default what the configuration names.

    Raises:
        ModelError: a part that is missing, or weights that do not land.
    """
    model = LlavaLayout().read(path, Parts(vision=vision)).build()
    assert isinstance(model, LlavaModel)
    return model
