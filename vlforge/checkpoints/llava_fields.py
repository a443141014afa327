"""LLaVA's names and settings, and ours.

Language keys are as in Llama, the connector is `model.mm_projector.*`, the encoder
`model.vision_tower.vision_tower.vision_model.*`; settings are `mm_*` keys between the
language model's own in one flat configuration.

Source: haotian-liu/LLaVA@c121f04; `llava_qwen` and ranges of tiles: LLaVA-NeXT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.checkpoint import Checkpoint, Parts
from vlforge.checkpoints.hints import read_hint
from vlforge.checkpoints.languages import (
    OURS,
    Language,
    flat_config,
    language_type,
    legacy_fields,
    without_stale,
)
from vlforge.checkpoints.tokenizers import has_tokenizer
from vlforge.checkpoints.towers import Tower, cut_tower, find_tower, known_config, known_name
from vlforge.checkpoints.weights import Lazy, Weights
from vlforge.models.llava import LlavaConfig
from vlforge.models.parts.anyres import read_pinpoints
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.text.templates import IM_START_END
from vlforge.text.tokenizers import DIALECT_NAME, PIECES_NAME
from vlforge.text.two_tokenizers import Dialect
from vlforge.types import ModelError

TOWER, PROJECTOR = "model.vision_tower.vision_tower.", "model.mm_projector."
NEWLINE = "model.image_newline"
OUR_TOWER = "vision.tower."
TOWER_FOLDER = "vision_tower"
"""Where an encoder that no hub has is written, inside of the checkpoint."""

_MODEL_TYPES = {"llama": "llava_llama", "qwen2": "llava_qwen", "qwen3": "llava_qwen"}
_CLASSES = {"qwen2": "LlavaQwenForCausalLM", "qwen3": "LlavaQwenForCausalLM"}
_TEMPLATES = {
    "mistral": "mistral_instruct", "mixtral": "mistral_instruct", "mpt": "mpt", "phi": "phi_2",
    "qwen2": "qwen_chat", "qwen3": "qwen_chat", "qwen2_moe": "qwen_chat", "gemma": "gemma",
    "gemma2": "gemma", "phi3": "phi3_chat",
}  # fmt: skip
LLAMA_3_WORDS = 128256


def our_name(name: str) -> str:
    """Our name of one of LLaVA's tensors."""
    if name.startswith(TOWER):
        return OUR_TOWER + name.removeprefix(TOWER).removeprefix("vision_model.")
    if name.startswith(PROJECTOR):
        return "connector." + name.removeprefix(PROJECTOR)
    return "image_newline" if name == NEWLINE else OURS + name


def their_name(name: str) -> str:
    """LLaVA's name of one of our tensors."""
    if name.startswith(OUR_TOWER):
        return f"{TOWER}vision_model." + name.removeprefix(OUR_TOWER)
    if name.startswith("connector."):
        return PROJECTOR + name.removeprefix("connector.")
    return NEWLINE if name == "image_newline" else name.removeprefix(OURS)


def is_llava(fields: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of LLaVA's own, not of transformers' class of that name."""
    kind = str(fields.get("model_type", ""))
    marks = {"mm_hidden_size", "mm_vision_tower", "mm_projector_type"}
    return kind.startswith("llava") and "vision_config" not in fields and bool(marks & set(fields))


def checkpoint_of(
    path: Path,
    layout: str,
    fields: Mapping[str, Any],
    weights: Weights,
    parts: Parts,
    language: Language | None = None,
) -> Checkpoint:
    """A checkpoint of LLaVA's settings, the weights it holds, and parts that lie elsewhere.

    Args:
        weights: under our names; they win over those of the parts.
        language: the language model where the checkpoint leaves it out.

    Raises:
        ModelError: settings that are not supported, or a part that is missing.
    """
    _refuse_unsupported(path, fields)
    merged = dict(language.weights if language else {}) | dict(weights)
    tower = find_tower(
        str(fields.get("mm_vision_tower") or ""), path, parts.vision, _fit_mode(fields)
    )
    if not any(name.startswith(OUR_TOWER) for name in merged):
        merged |= {OUR_TOWER + name: lazy for name, lazy in tower.weights.items()}
    text = language.config if language else _text_config(path, fields, merged)
    config = _our_config(path, fields, merged, tower, text)
    merged, left = without_stale(merged, text)
    tokenizer = path if has_tokenizer(path) else language.tokenizer if language else None
    template, note = guess_template(path, fields, text)
    return Checkpoint(
        path=path,
        layout=layout,
        config=config,
        weights=merged,
        tokenizer=tokenizer,
        processor=_processor(tower, config),
        template=template,
        unused=tuple(f"{where} ({reason})" for where, reason in left),
        notes=(note,) if note else (),
        extra={"llava": dict(fields)},
        dialect=trained_dialect(tokenizer, text, "slow"),
    )


def trained_dialect(tokenizer: Path | None, text: PreTrainedConfig, published: Dialect) -> Dialect:
    """Whose ids a published model was trained with, where Llama's file gives them again.

    LLaVA trains with the slow tokenizer of transformers 4, XTuner with its fast one.
    """
    is_told = tokenizer is None or (tokenizer / DIALECT_NAME).is_file()
    has_pieces = tokenizer is not None and (tokenizer / PIECES_NAME).is_file()
    is_llama = text.model_type in ("llama", "mistral", "mixtral")
    return published if has_pieces and is_llama and not is_told else "auto"


def _refuse_unsupported(path: Path, fields: Mapping[str, Any]) -> None:
    if fields.get("s2"):
        raise ModelError(f"{path}: S2 (features at several scales) is not supported")
    if fields.get("mm_resampler_type"):
        raise ModelError(f"{path}: mm_resampler_type {fields['mm_resampler_type']!r} is unknown")


def _fit_mode(fields: Mapping[str, Any]) -> str:
    """`square`, `pad` or `anyres`, from `image_aspect_ratio`."""
    given = str(fields.get("image_aspect_ratio") or "square")
    if given.startswith("anyres"):
        return "anyres"
    return "pad" if given == "pad" else "square"


def _text_config(path: Path, fields: Mapping[str, Any], weights: Weights) -> PreTrainedConfig:
    return flat_config(fields, language_type(fields, weights), path)


def _our_config(
    path: Path,
    fields: Mapping[str, Any],
    weights: Weights,
    tower: Tower,
    text: PreTrainedConfig,
) -> LlavaConfig:
    held = {
        name.removeprefix(OUR_TOWER): lazy
        for name, lazy in weights.items()
        if name.startswith(OUR_TOWER)
    }
    layer = int(fields.get("mm_vision_select_layer", -2))
    vision, layer = cut_tower(tower.config, held, layer)
    tiles: dict[str, Any] = {}
    if _fit_mode(fields) == "anyres":
        ratio = re.fullmatch(r"anyres(?:_max_(\d+))?", fields["image_aspect_ratio"])
        if ratio is None:
            raise ModelError(
                f"{path}: image_aspect_ratio {fields['image_aspect_ratio']!r} is unknown"
            )
        given = fields.get("image_grid_pinpoints")
        tiles = {
            "patch_merge": fields.get("mm_patch_merge_type") or "flat",
            "image_grid_pinpoints": list(read_pinpoints(given, vision.image_size)),
            "max_tiles": int(ratio.group(1) or 0),
        }
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        connector=fields.get("mm_projector_type") or connector_kind(weights),
        select_layer=layer,
        select_feature=fields.get("mm_vision_select_feature") or "patch",
        image_aspect_ratio=_fit_mode(fields),
        **tiles,
    )


def connector_kind(weights: Iterable[str]) -> str:
    """The kind of a connector, from its weights under our names."""
    linears = {name.split(".")[1] for name in weights if name.startswith("connector.")}
    if not linears:
        return "identity"
    return "linear" if linears == {"weight", "bias"} else f"mlp{len(linears)}x_gelu"


def implied_processor(config: LlavaConfig) -> ImageProcessor:
    """How the kind of encoder usually wants its pictures."""
    vision: Any = config.vision_config
    half = (0.5, 0.5, 0.5)
    mode: Any = config.image_aspect_ratio
    if vision.model_type == "siglip_vision_model":
        mode = "stretch" if mode == "square" else mode
        return ImageProcessor(size=vision.image_size, fit_mode=mode, mean=half, std=half)
    return ImageProcessor(size=vision.image_size, fit_mode=mode)


def _processor(tower: Tower, config: LlavaConfig) -> ImageProcessor:
    """The encoder's own way, or the one that its kind implies, as the model wants it."""
    processor = tower.processor or implied_processor(config)
    if config.tiling is not None:
        processor = replace(processor, fit_mode="anyres", pinpoints=config.tiling.pinpoints)
    return processor


def guess_template(
    path: Path, fields: Mapping[str, Any], text: PreTrainedConfig
) -> tuple[str, str | None]:
    """The conversation template, and a note where it is a guess by LLaVA's own rule."""
    known = read_hint(path)
    if known is not None:
        return known, None
    if fields.get("tune_mm_mlp_adapter"):
        return "plain", None
    hint = f"{path.name} {fields.get('_name_or_path', '')}".lower()
    guess = _TEMPLATES.get(text.model_type, "v1")
    if text.model_type == "llama" and text.vocab_size >= LLAMA_3_WORDS:
        guess = "llama3_chat"
    for mark, template in (("llama-2", "llava_llama_2"), ("v1.6-34b", "chatml_direct")):
        guess = template if mark in hint else guess
    if fields.get("mm_use_im_start_end"):
        guess = f"{guess}+{IM_START_END}"
    return guess, f"the checkpoint names no conversation template; taken for {guess}"


def their_config(checkpoint: Checkpoint, holds_tower: bool) -> dict[str, Any]:
    """LLaVA's configuration of a model, its source's own fields kept where it has some.

    Raises:
        ModelError: a model that LLaVA's layout cannot hold.
    """
    config = checkpoint.config
    if not isinstance(config, LlavaConfig):
        raise ModelError(f"{checkpoint.path}: LLaVA's layout holds no {checkpoint.family} model")
    vision: Any = config.vision_config
    text: Any = config.text_config
    if vision.model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise ModelError(
            f"{checkpoint.path}: LLaVA's layout holds CLIP and SigLIP, not {vision.model_type}"
        )
    if config.connector_width not in (None, text.hidden_size) and config.connector != "linear":
        raise ModelError(
            f"{checkpoint.path}: LLaVA's connectors are as wide inside as the language model "
            f"({text.hidden_size}); this one is {config.connector_width}"
        )
    kind = text.model_type
    source = dict(checkpoint.extra.get("llava", {}))
    aspect = "square" if config.image_aspect_ratio == "stretch" else config.image_aspect_ratio
    fields = legacy_fields(text) | source
    fields |= {
        "model_type": _MODEL_TYPES.get(kind, f"llava_{kind}"),
        "architectures": [_CLASSES.get(kind, f"Llava{kind.capitalize()}ForCausalLM")],
        "vocab_size": text.vocab_size,
        "mm_vision_tower": tower_name(checkpoint),
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": config.connector,
        "mm_vision_select_layer": source.get("mm_vision_select_layer", config.select_layer),
        "mm_vision_select_feature": config.select_feature,
        "mm_patch_merge_type": config.patch_merge,
        "image_aspect_ratio": f"anyres_max_{config.max_tiles}" if config.max_tiles else aspect,
        "mm_use_im_start_end": checkpoint.template.endswith(f"+{IM_START_END}"),
        "mm_use_im_patch_token": bool(source.get("mm_use_im_patch_token", False)),
        "use_mm_proj": True,
        # LLaVA takes an encoder from its checkpoint only where this says that it was trained.
        "unfreeze_mm_vision_tower": holds_tower,
    }
    fields.setdefault("tokenizer_padding_side", "right")
    fields.setdefault("tokenizer_model_max_length", getattr(text, "max_position_embeddings", 2048))
    if config.tiling is not None:
        pinpoints = [list(pair) for pair in config.tiling.pinpoints]
        fields.setdefault("image_grid_pinpoints", pinpoints)
    return {key: value for key, value in fields.items() if key != "s2"}


def tower_name(checkpoint: Checkpoint) -> str:
    """What LLaVA loads the encoder by: its name on the hub, or a folder in the checkpoint.

    The name on the hub also brings the image processor, which has to be the model's.
    """
    source = str(checkpoint.extra.get("llava", {}).get("mm_vision_tower", ""))
    name = source if known_config(source) else known_name(checkpoint.config.vision_config)
    given, usual = checkpoint.processor, implied_processor(checkpoint.config)
    is_usual = given is None or (given.mean, given.std, given.size) == (
        usual.mean, usual.std, usual.size
    )  # fmt: skip
    return name if name and is_usual else TOWER_FOLDER


def their_weights(weights: Weights, keep: Iterable[str] | None = None) -> dict[str, Lazy]:
    """Our weights under LLaVA's names; of them only `keep` where it is given."""
    wanted = None if keep is None else set(keep)
    return {
        their_name(name): lazy for name, lazy in weights.items() if wanted is None or name in wanted
    }
