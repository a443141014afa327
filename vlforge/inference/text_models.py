"""Language models without eyes, opened by path: causal ones, and those from text to text."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlforge.models.parts.internlm2 import is_internlm2
from vlforge.models.parts.language import build_language, text_config
from vlforge.models.parts.qwen_lm import QwenConfig
from vlforge.models.reading import (
    check_vocabulary,
    first_line,
    load_weights,
    read_config,
    read_language,
    read_tokenizer,
)
from vlforge.types import ModelError

TRANSLATORS = ("marian", "m2m_100", "nllb-moe", "mbart", "fsmt", "plbart")
"""Their source is a sentence, and no instruction."""
PLAIN_STOP = "\nUser:"
"""Where an answer ends whose model was asked in plain words."""
_WRITERS = ("CausalLM", "LMHeadModel", "ConditionalGeneration", "Seq2SeqLM", "MTModel")
"""How the classes of `architectures` end that write texts."""
_FAST = {"inputs_embeds", "attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
"""What our own decoding gives a model."""
_PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def is_text_model(fields: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of a language model that writes."""
    from transformers.models.auto import modeling_auto as known

    kind = fields.get("model_type")
    if is_internlm2(dict(fields)) or kind == QwenConfig.model_type:
        return True
    causal = kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not causal and not is_sequence_model(fields):
        return False
    named = fields.get("architectures") or []
    if named:
        return any(str(name).endswith(_WRITERS) for name in named)
    # BERT and its like are in the list too, for those that were made decoders.
    return kind not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def is_sequence_model(fields: Mapping[str, Any]) -> bool:
    """Whether it has an encoder for the source and a decoder for what it writes."""
    from transformers.models.auto import modeling_auto as known

    return fields.get("model_type") in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES


def open_text_model(folder: Path, dtype: torch.dtype, **how: Any) -> tuple[Any, Any]:
    """Model and tokenizer.

    Args:
        how: more for `from_pretrained`: where weights go, and quantised how.

    Raises:
        ModelError: weights that do not fit, or a tokenizer that cannot be read.
    """
    from transformers import AutoModelForSeq2SeqLM

    fields = read_config(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that only training would want
        if is_sequence_model(fields):
            model = load_weights(AutoModelForSeq2SeqLM, folder, dtype, **how)
        else:
            model = read_language(folder, dtype, **how)
        tokenizer = _tokenizer(folder)
    check_vocabulary(tokenizer, model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # How long and how widely it searches is said with every request.
    for name, value in {"max_length": None, "num_beams": 1, "early_stopping": False}.items():
        setattr(model.generation_config, name, value)
    return model, tokenizer


def bare_text_model(folder: Path) -> Any:
    """The model without memory: names and shapes only."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    fields = read_config(folder)
    with torch.device("meta"):
        if is_sequence_model(fields):
            return AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(folder))
        return build_language(text_config(fields))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    known = ("tokenizer.json", "tokenizer.model", "qwen.tiktoken")
    if any((folder / name).is_file() for name in known):
        return read_tokenizer(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder}: its tokenizer cannot be read: {first_line(error)}; copy its files there"
        ) from None


def takes_embeddings(model: Any) -> bool:
    """Whether our own decoding can drive it: a causal model with keys and values to keep.

    Others (an encoder before the decoder, states in place of keys, embeddings per layer)
    are drawn from by transformers' `generate`.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False) or getattr(model, "_is_stateful", False):
        return False
    if getattr(config, "hidden_size_per_layer_input", 0):
        return False
    if set(getattr(config, "layer_types", None) or ()) - _PLAIN_LAYERS:
        return False
    return set(inspect.signature(model.forward).parameters) >= _FAST


def is_plain(tokenizer: Any, model: Any) -> bool:
    """Whether a model is asked in plain words, because nothing says which it was taught."""
    return not (model.config.is_encoder_decoder or getattr(tokenizer, "chat_template", None))
