"""Tokens that a template brings along: into the tokenizer, and rows for them in the model.

Source: LLaVA's initialize_vision_tokenizer, haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlforge.models.base import VisionLanguageModel
from vlforge.text.tokenizers import adapt
from vlforge.types import ModelError


@torch.no_grad()
def add_new_tokens(model: VisionLanguageModel, tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Teach the tokenizer those of `tokens` that it reads as several; their ids.

    Each gets the mean of the rows before it, in the embeddings and in the output layer.

    Raises:
        ModelError: a tokenizer that takes no tokens.
    """
    missing = [token for token in tokens if len(adapt(tokenizer).ids(token)) != 1]
    if not missing:
        return []
    if not hasattr(tokenizer, "add_tokens"):
        raise ModelError(
            f"{type(tokenizer).__name__} takes no new tokens ({', '.join(missing)}); "
            "choose a template without +im_start_end"
        )
    before = len(tokenizer)
    tokenizer.add_tokens(missing, special_tokens=True)
    language = model.language
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.text_config.vocab_size = language.config.vocab_size
    new = [int(tokenizer.convert_tokens_to_ids(token)) for token in missing]
    for layer in (language.get_input_embeddings(), language.get_output_embeddings()):
        layer.weight[new] = layer.weight[:before].mean(0, keepdim=True)
    return new
