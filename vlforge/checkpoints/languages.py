"""Language models that a checkpoint holds, or was trained beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.internlm2 import to_llama
from vlforge.checkpoints.tokenizers import has_tokenizer
from vlforge.checkpoints.weights import Lazy, Weights, open_weights
from vlforge.models.parts.internlm2 import Heads, is_internlm2, llama_config
from vlforge.models.parts.language import text_config
from vlforge.models.reading import read_config
from vlforge.types import ModelError

OURS = "language."
"""What our names of a language model's weights begin with."""

_STALE = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "masked_bias")
"""Tables that files of older transformers hold and that are computed today."""

_LEGACY = {"rope_theta", "rope_scaling", "rope_parameters", "head_dim", "partial_rotary_factor"}
"""Fields that a configuration understands beside those it lists."""

_NOT_SHAPE = {"architectures", "model_type", "transformers_version", "torch_dtype", "dtype"}


@dataclass(frozen=True)
class Language:
    """A language model's configuration, its weights under our names, its tokenizer's folder.

    kind: `model_type` of the folder, which for an InternLM2 is not the configuration's.
    """

    config: PreTrainedConfig
    weights: Weights
    tokenizer: Path | None
    kind: str = ""


def read_language(folder: Path) -> Language:
    """A causal language model of transformers in a folder; an InternLM2 becomes a Llama.

    Raises:
        ModelError: no folder there, or one of something else.
    """
    if not folder.is_dir():
        raise ModelError(f"no language model at {folder}; check the path")
    fields, weights = read_config(folder), open_weights(folder)
    if is_internlm2(fields):
        config = llama_config(fields)
        weights = to_llama(weights, Heads.of(config))
    else:
        config = text_config(fields)
    named = {OURS + name: lazy for name, lazy in weights.items()}
    tokenizer = folder if has_tokenizer(folder) else None
    return Language(config, named, tokenizer, str(fields.get("model_type")))


def flat_config(fields: Mapping[str, Any], kind: str, path: Path) -> PreTrainedConfig:
    """The language model's part of a configuration that also holds other things.

    Raises:
        ModelError: transformers knows no language model of the kind.
    """
    if kind not in CONFIG_MAPPING:
        raise ModelError(f"{path}: a language model of type {kind!r} is not known")
    known = set(CONFIG_MAPPING[kind]().to_dict()) | _LEGACY
    kept = {key: value for key, value in fields.items() if key in known - _NOT_SHAPE}
    if kept.get("rope_scaling") is None:
        kept.pop("rope_scaling", None)
    return text_config(kept | {"model_type": kind})


def legacy_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration as transformers 4 wrote it: rotary settings apart from each other."""
    fields = {key: value for key, value in config.to_dict().items() if key not in _NOT_SHAPE}
    rope = fields.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        del fields["rope_parameters"]
        rest = {key: value for key, value in rope.items() if key != "rope_theta"}
        fields["rope_theta"] = rope["rope_theta"]
        partial = rest.pop("partial_rotary_factor", None)
        if partial is not None:
            fields["partial_rotary_factor"] = partial
        kind = rest.get("rope_type", "default")
        if kind != "default":
            fields["rope_scaling"] = rest | {"type": kind}
    return {key: value for key, value in fields.items() if not key.startswith("_")}


def without_stale(
    weights: Weights, config: PreTrainedConfig
) -> tuple[dict[str, Lazy], list[tuple[str, str]]]:
    """Our weights, and what is left with the reason: tables of old files, doubles of tied ones."""
    kept, left = {}, []
    tied = bool(config.tie_word_embeddings)
    for name, lazy in weights.items():
        if name.endswith(_STALE) or name.endswith("position_ids"):
            left.append((lazy.where, "computed today"))
        elif tied and name == f"{OURS}lm_head.weight":
            left.append((lazy.where, "the configuration ties it to the word embeddings"))
        else:
            kept[name] = lazy
    return kept, left


def language_type(fields: Mapping[str, Any], weights: Weights) -> str:
    """The type of language model in a LLaVA configuration (`llava_qwen` -> qwen2)."""
    kind = str(fields.get("model_type", "")).removeprefix("llava").removeprefix("_")
    kind = {"": "llama", "phi2": "phi", "qwen_moe": "qwen2_moe"}.get(kind, kind)
    if kind != "qwen":
        return kind
    return "qwen3" if any(".q_norm." in name for name in weights) else "qwen2"
