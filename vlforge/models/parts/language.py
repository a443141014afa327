"""Language models: transformers' classes, held to what the checkpoints were trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.parts.qwen_lm import QwenConfig, QwenForCausalLM
from vlforge.types import ModelError

SCALED_EMBEDDINGS = ("gemma", "gemma2", "gemma3_text")
"""Their word embeddings come multiplied by the root of the width. Until transformers 4.x
the model multiplied everything it was given, pictures too; since 5.x it does not."""


def text_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """The language model's configuration, its activation as written.

    transformers 5 turns Gemma's `gelu` into the tanh approximation whatever the
    file says; models that were trained with the exact one keep it here.

    Raises:
        ModelError: a language model of a type that is not known.
    """
    fields = dict(fields)
    kind = fields.get("model_type")
    if kind == QwenConfig.model_type:
        known = {one.name for one in dataclasses.fields(QwenConfig)}
        known -= {"transformers_version", "dtype"}
        return QwenConfig(**{key: value for key, value in fields.items() if key in known})
    activation = fields.pop("hidden_act", None) if kind == "gemma" else None
    try:
        config = AutoConfig.for_model(**fields)
    except (KeyError, ValueError):
        raise ModelError(f"a language model of type {kind!r} is not known") from None
    if activation:
        config.hidden_act = activation  # only now: its own check would replace it
    return config


def language_class(config: PreTrainedConfig) -> Any:
    """What `from_pretrained` is asked of: Qwen-1 is ours, transformers has the others."""
    return QwenForCausalLM if isinstance(config, QwenConfig) else AutoModelForCausalLM


def build_language(config: PreTrainedConfig) -> PreTrainedModel:
    """A causal language model with new weights, of torch's default precision.

    transformers would take the one in which the configuration's file was once written.
    """
    if isinstance(config, QwenConfig):
        return QwenForCausalLM(config)
    return AutoModelForCausalLM.from_config(config, dtype=torch.get_default_dtype())


def picture_scale(config: PreTrainedConfig) -> float:
    """What picture tokens are multiplied by, to stand beside word embeddings.

    Source: GemmaModel.forward of transformers 4.38, which scales `inputs_embeds`.
    """
    if config.model_type in SCALED_EMBEDDINGS:
        return float(config.hidden_size**0.5)
    return 1.0
