"""A BLIP-2 of ten million random weights that ends its captions as captions end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

LONGEST = 128
"""Tokens a caption may have, as in Data-Juicer."""
END_SLOPE, EMBEDDED = 4.0, 12.0
"""How fast the end becomes likely, and how much the last word decides of the next."""


@dataclass(frozen=True)
class Size:
    """Widths and depths; captions get about twice `steps` words, a few more or less."""

    width: int = 256
    layers: int = 4
    side: int = 112
    queries: int = 32
    vocabulary: int = 4096
    steps: int = 5


def tokenizer(count: int) -> PreTrainedTokenizerFast:
    """Words apart by spaces."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(count - 5))]
    made = Tokenizer(models.WordLevel({n: at for at, n in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def write_blip2(out: Path, size: Size = Size()) -> Path:
    """The model's folder, as BLIP-2 is published: vision, Q-Former, OPT, processor."""
    torch.manual_seed(0)
    block = {"hidden_size": size.width, "num_attention_heads": 4, "num_hidden_layers": size.layers}
    text = {
        "model_type": "opt",
        "vocab_size": size.vocabulary,
        **block,
        "ffn_dim": 4 * size.width,
        "word_embed_proj_dim": size.width,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    wide = {"intermediate_size": 4 * size.width}
    config = Blip2Config(
        vision_config={**block, **wide, "image_size": size.side, "patch_size": 14},
        qformer_config={**block, **wide, "num_hidden_layers": 2,
                        "encoder_hidden_size": size.width, "vocab_size": 32},
        text_config=text,
        num_query_tokens=size.queries,
        image_token_index=size.vocabulary - 1,
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        _end_captions(model.language_model, size)
    model.save_pretrained(out)
    images = BlipImageProcessorPil(size={"height": size.side, "width": size.side})
    processor = Blip2Processor(images, tokenizer(size.vocabulary), num_query_tokens=size.queries)
    processor.save_pretrained(out)
    return out


def _end_captions(language: Any, size: Size) -> None:
    """Let the end token become likelier with each position, and likeliest in time.

    Each position adds a little more of one direction, which the output layer takes for the
    end: random weights alone would write to the last token, or end by chance at once.
    """
    decoder, rows = language.model.decoder, language.lm_head.weight
    along = torch.nn.functional.normalize(torch.randn(size.width), dim=0)
    rows[2] = along * 3 * rows[3].norm()
    decoder.embed_tokens.weight *= EMBEDDED  # what was said last decides what comes next
    first = size.queries + 1 + decoder.embed_positions.offset
    for place in range(decoder.embed_positions.weight.shape[0]):
        rise = max((place - first) / size.steps, 0) - 1
        decoder.embed_positions.weight[place] += along * rise * END_SLOPE
