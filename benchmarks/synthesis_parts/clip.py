"""A CLIP and some heads on its embeddings, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from .models import tokenizer

VOCABULARY = 1024
EMBEDDING = 128


def write_clip(folder: Path, width: int = 256, layers: int = 4, side: int = 112) -> Path:
    """The model's folder, as CLIP is published."""
    torch.manual_seed(0)
    block = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    config = CLIPConfig(
        text_config={**block, "vocab_size": VOCABULARY, "max_position_embeddings": 77,
                     "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={**block, "image_size": side, "patch_size": 14},
        projection_dim=EMBEDDING,
    )  # fmt: skip
    CLIPModel(config).eval().save_pretrained(folder)
    sides = {"height": side, "width": side}
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=sides).save_pretrained(folder)
    tokenizer(VOCABULARY).save_pretrained(folder)
    return folder


def write_head(path: Path, seed: int) -> Path:
    """One linear layer that gives a number per embedding."""
    torch.manual_seed(seed)
    save_file({"weight": torch.randn(1, EMBEDDING), "bias": torch.zeros(1)}, path)
    return path


def filters_of(folder: Path, clip: Path) -> list[dict[str, Any]]:
    """Operators that know pictures by this CLIP; none of them drops a row."""
    heads = [str(write_head(folder / f"head-{n}.safetensors", n)) for n in range(3)]
    wide = {"hf_clip": str(clip), "min_score": -1e9, "max_score": 1e9}
    return [
        {"image_aesthetics_filter": {**wide, "head": heads[0]}},
        {"image_nsfw_filter": {**wide, "head": heads[1]}},
        {"image_watermark_filter": {"hf_clip": str(clip), "prob_threshold": 1e9,
                                    "head": heads[2]}},
        {"image_text_similarity_filter": wide},
    ]  # fmt: skip
