"""LLaVA in transformers' own classes: `LlavaForConditionalGeneration` and `LlavaNext…`.

Names come in two forms: flat (`language_model.model.…`), which transformers 4 wrote, 5
still writes and every version and vLLM reads; and nested (`model.language_model.…`) as
from 4.52 on in memory. The encoder's `vision_model.` segment may be missing (5.x).

Source: transformers 5.23, conversion_mapping.py; the vocabulary grows as in
convert_llava_weights_to_hf.py: `<image>`, `<pad>`, and rows up to a multiple of 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import LlavaConfig as TheirConfig
from transformers import LlavaNextConfig
from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.hints import write_hint
from vlforge.checkpoints.languages import legacy_fields, without_stale
from vlforge.checkpoints.llava_fields import guess_template
from vlforge.checkpoints.llava_hf_files import (
    Vocabulary,
    grow,
    processor_fields,
    processor_from,
    write_processor,
    write_vocabulary,
)
from vlforge.checkpoints.tokenizers import has_tokenizer
from vlforge.checkpoints.weights import Lazy, has_weights, open_weights, write_weights
from vlforge.models.llava import LlavaConfig
from vlforge.models.parts.language import SCALED_EMBEDDINGS, text_config
from vlforge.models.parts.vision import vision_config
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

FLAT = {
    "vision.tower.": "vision_tower.vision_model.",
    "connector.0.": "multi_modal_projector.linear_1.",
    "connector.2.": "multi_modal_projector.linear_2.",
    "image_newline": "image_newline",
    "language.": "language_model.",
}
"""Our beginnings of names and those of transformers 4."""

NESTED = {
    "vision.tower.": "model.vision_tower.vision_model.",
    "connector.0.": "model.multi_modal_projector.linear_1.",
    "connector.2.": "model.multi_modal_projector.linear_2.",
    "image_newline": "model.image_newline",
    "language.lm_head.": "lm_head.",
    "language.model.": "model.language_model.",
}
"""The same as from transformers 4.52 on in memory."""

MODEL_TYPES = ("llava", "llava_next")


def our_name(name: str) -> str | None:
    """Our name of one of transformers' tensors, in either form; None where it is none."""
    for ours, theirs in (*NESTED.items(), *FLAT.items()):
        short = theirs.removesuffix("vision_model.")
        for beginning in (theirs, short):
            if name.startswith(beginning):
                return ours + name.removeprefix(beginning)
    return None


def their_name(name: str, names: Mapping[str, str]) -> str:
    """transformers' name of one of our tensors in the form `names`."""
    ours = next(ours for ours in names if name.startswith(ours))
    return names[ours] + name.removeprefix(ours)


def is_llava_hf(path: Path) -> bool:
    """Whether a folder is of transformers' LLaVA classes."""
    if not (path / "config.json").is_file() or not has_weights(path):
        return False
    fields = read_config(path)
    return fields.get("model_type") in MODEL_TYPES and "text_config" in fields


class LlavaHfLayout:
    """transformers' LLaVA and LLaVA-NeXT, names as its version 4 writes them."""

    name = "llava_hf"
    says = "transformers' LlavaForConditionalGeneration / LlavaNext…, flat names (4.x; vLLM)"
    names: Mapping[str, str] = FLAT

    def matches(self, path: Path) -> bool:
        """A folder of transformers' LLaVA whose names are in this form."""
        if not is_llava_hf(path):
            return False
        is_nested = any(name.startswith("model.") for name in open_weights(path))
        return is_nested == (self.names is NESTED)

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The folder; names may be in either form."""
        fields = read_config(path)
        if fields.get("model_type") not in MODEL_TYPES:
            raise ModelError(f"{path} holds a {fields.get('model_type')!r}, no LLaVA")
        config = _our_config(path, fields)
        weights: dict[str, Lazy] = {}
        for name, lazy in open_weights(path).items():
            weights[our_name(name) or f"language.{name}"] = lazy
        weights, left = without_stale(weights, config.text_config)
        template, note = guess_template(path, fields, config.text_config)
        return Checkpoint(
            path=path,
            layout=self.name,
            config=config,
            weights=weights,
            tokenizer=path if has_tokenizer(path) else None,
            processor=processor_from(path, config),
            template=template,
            unused=tuple(f"{where} ({reason})" for where, reason in left),
            notes=(note,) if note else (),
            extra={"llava_hf": fields},
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """A folder for `from_pretrained` and vLLM: weights, processor, tokenizer, chat template."""
        config = _check(checkpoint)
        vocabulary = Vocabulary.of(checkpoint, how)
        weights = grow(how.cast(checkpoint.weights), vocabulary)
        write_weights(
            {their_name(name, self.names): lazy for name, lazy in weights.items()},
            out,
            kind=how.kind,
            shard_bytes=how.shard_bytes,
            on_shard=how.on_shard,
        )
        fields = their_config(config, vocabulary)
        dtype = weights["language.model.embed_tokens.weight"].dtype
        write_json(out / "config.json", fields | {"torch_dtype": str(dtype).split(".")[1]})
        write_vocabulary(checkpoint, vocabulary, out, how)
        write_processor(checkpoint, out, how)
        write_hint(checkpoint, out)


class LlavaHfNestedLayout(LlavaHfLayout):
    """The same under the names that transformers has in memory since 4.52."""

    name = "llava_hf_nested"
    says = "the same, nested names (model.language_model.…; transformers 4.52 and later)"
    names = NESTED


def their_config(config: LlavaConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """transformers' configuration of a LLaVA."""
    vision: Any = config.vision_config
    text: Any = config.text_config
    is_clip = vision.model_type == "clip_vision_model"
    drops_class = is_clip and config.select_feature == "patch"
    fields: dict[str, Any] = {
        "image_token_index": vocabulary.image,
        "image_seq_length": (vision.image_size // vision.patch_size) ** 2
        + int(is_clip and not drops_class),
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": config.select_layer,
        "vision_feature_select_strategy": "default" if drops_class else "full",
        "tie_word_embeddings": bool(text.tie_word_embeddings),
        "pad_token_id": vocabulary.pad,
        "vision_config": _plain(vision),
        "text_config": legacy_fields(text)
        | {"model_type": text.model_type, "vocab_size": vocabulary.rows},
    }
    if config.tiling is None:
        return fields | {
            "model_type": "llava",
            "architectures": ["LlavaForConditionalGeneration"],
        }
    return fields | {
        "model_type": "llava_next",
        "architectures": ["LlavaNextForConditionalGeneration"],
        "image_grid_pinpoints": [[height, width] for width, height in config.tiling.pinpoints],
        "use_image_newline_parameter": True,
    }


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    fields = config.to_dict()
    return {key: value for key, value in fields.items() if not key.startswith("_")}


def _check(checkpoint: Checkpoint) -> LlavaConfig:
    """The configuration, if transformers' classes can hold the model.

    Raises:
        ModelError: they cannot; says what is in the way.
    """
    config, path = checkpoint.config, checkpoint.path
    if not isinstance(config, LlavaConfig):
        raise ModelError(f"{path}: transformers' LLaVA holds no {checkpoint.family} model")
    vision, text = config.vision_config, config.text_config
    reason = None
    if vision.model_type not in ("clip_vision_model", "siglip_vision_model"):
        reason = f"CLIP and SigLIP, not {vision.model_type}"
    elif config.connector != "mlp2x_gelu" or config.connector_width not in (None, text.hidden_size):
        width = f" of width {config.connector_width}" if config.connector_width else ""
        reason = f"a connector mlp2x_gelu of the language model's width, not {config.connector}"
        reason += width
    elif text.model_type in SCALED_EMBEDDINGS:
        reason = (
            f"no {text.model_type}: its versions 4 and 5 scale picture tokens differently; keep "
            "LLaVA's own layout"
        )
    elif config.tiling is not None and config.patch_merge != "spatial_unpad":
        reason = f"tiles joined as spatial_unpad, not {config.patch_merge}"
    elif config.max_tiles:
        reason = f"no limit of tiles (anyres_max_{config.max_tiles})"
    elif config.tiling is not None and vision.model_type != "clip_vision_model":
        reason = "tiles of CLIP only"
    elif "language.lm_head.bias" in checkpoint.weights:
        reason = f"an output layer without bias, unlike {text.model_type}'s"
    if reason:
        raise ModelError(f"{path}: transformers' LLaVA takes {reason}")
    return config


def _our_config(path: Path, fields: Mapping[str, Any]) -> LlavaConfig:
    is_next = fields["model_type"] == "llava_next"
    # transformers' own class fills in what old files leave out.
    resolved: Any = (LlavaNextConfig if is_next else TheirConfig).from_dict(dict(fields))
    vision = vision_config(resolved.vision_config.to_dict())
    text = text_config(resolved.text_config.to_dict())
    if resolved.tie_word_embeddings and not text.tie_word_embeddings:
        text.tie_word_embeddings = True
    layer = resolved.vision_feature_layer
    wrong = None
    if not isinstance(layer, int):
        wrong = f"vision_feature_layer {layer} (several layers)"
    elif resolved.projector_hidden_act != "gelu":
        wrong = f"projector_hidden_act {resolved.projector_hidden_act!r}"
    elif not resolved.multimodal_projector_bias:
        wrong = "a connector without bias"
    elif text.model_type in SCALED_EMBEDDINGS:
        wrong = f"a {text.model_type}, whose pictures transformers 4 and 5 scale differently,"
    if wrong:
        raise ModelError(f"{path}: {wrong} is not supported")
    is_clip = vision.model_type == "clip_vision_model"
    takes_all = resolved.vision_feature_select_strategy == "full"
    tiles: dict[str, Any] = {}
    if is_next:
        pairs = [(int(w), int(h)) for h, w in resolved.image_grid_pinpoints]
        tiles = {"patch_merge": "spatial_unpad", "image_grid_pinpoints": pairs}
        tiles |= {"rounds_tiles": True, "image_aspect_ratio": "anyres"}
    else:
        tiles = {"image_aspect_ratio": "pad" if _pads(path) else "square"}
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        connector="mlp2x_gelu",
        select_layer=layer,
        select_feature="cls_patch" if is_clip and takes_all else "patch",
        **tiles,
    )


def _pads(path: Path) -> bool:
    """Whether the folder's image processor makes pictures square by padding."""
    return bool(processor_fields(path).get("do_pad"))
