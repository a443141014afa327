"""Configurations in which a language model's fields lie flat among a whole model's own.

LLaVA and Mini-Gemini write them so, under names of transformers 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING
from transformers.configuration_utils import PreTrainedConfig

from vlforge.models.parts.language import text_config

_NOT_KEPT = (
    "model_type", "transformers_version", "architectures", "_name_or_path", "torch_dtype", "dtype",
    "use_cache", "rope_parameters", "output_attentions", "output_hidden_states", "return_dict",
    "id2label", "label2id", "problem_type", "chunk_size_feed_forward", "is_encoder_decoder",
)  # fmt: skip
"""Fields of transformers itself, and what a training run left behind."""


def language_config(fields: Mapping[str, Any], kind: str) -> PreTrainedConfig:
    """The language model's configuration among `fields`, as transformers 5 has it.

    Args:
        kind: `model_type` of the language model (`llama`, `gemma`, …).
    """
    own = set(CONFIG_MAPPING[kind]().to_dict()) - set(_NOT_KEPT)
    own |= {"rope_theta", "rope_scaling"}
    return text_config({k: v for k, v in fields.items() if k in own} | {"model_type": kind})


def flat_fields(config: PreTrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The way back: `language_config` of it is `config` again; transformers 4 reads it."""
    fields = {k: v for k, v in config.to_dict().items() if k not in _NOT_KEPT}
    rope = dict(getattr(config, "rope_parameters", None) or {})
    theta, kind = rope.pop("rope_theta", None), rope.get("rope_type", "default")
    if theta is not None:
        fields["rope_theta"] = theta
        fields["rope_scaling"] = None if kind == "default" else rope | {"type": kind}
    return fields | {"torch_dtype": str(dtype).removeprefix("torch."), "use_cache": True}
