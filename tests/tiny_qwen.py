"""A Qwen-VL of a few thousand weights with a tokenizer of single bytes, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch

from vlforge.models.folder import ModelFolder
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.qwen_lm import QwenConfig
from vlforge.models.parts.qwen_vit import QwenVitConfig
from vlforge.models.qwen_vl import QwenVlConfig, QwenVlModel, end_ids
from vlforge.text.qwen_tokenizer import QwenTokenizer

WORDS = (
    b"th",
    b"the",
    b" the",
    b"\n\n",
    b"is",
    b" is",
    b"red",
    b" red",
    "红".encode(),
    b"aa",
    b"aaa",
)


def tokenizer(*more: bytes) -> QwenTokenizer:
    """Every byte, a few words, and what they are made of."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in (*WORDS, *more):
        tokens += [word[:end] for end in range(2, len(word) + 1)]
    return QwenTokenizer({token: rank for rank, token in enumerate(dict.fromkeys(tokens))})


def config(seq_length: int = 2048, **text) -> QwenVlConfig:
    """Width 16, two heads, pictures of 28 pixels in 4 patches."""
    start = tokenizer().image_start_id
    sizes = {
        "vocab_size": start + 10,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "kv_channels": 8,
        "intermediate_size": 48,
        "seq_length": seq_length,
        "initializer_range": 0.3,
        "eos_token_id": end_ids(start),
        "pad_token_id": end_ids(start)[0],
    }
    vision = QwenVitConfig(
        image_size=28, patch_size=14, width=24, layers=2, heads=3, initializer_range=0.3
    )
    return QwenVlConfig(
        vision_config=vision, text_config=QwenConfig(**(sizes | text)), image_start_id=start
    )


def model(seed: int = 0, seq_length: int = 2048, **text) -> QwenVlModel:
    """Random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return QwenVlModel(config(seq_length, **text)).eval()


def folder(seed: int = 0) -> ModelFolder:
    """The model with its tokenizer and pictures."""
    processor = ImageProcessor(size=28, fit_mode="stretch")
    return ModelFolder(model(seed), tokenizer(), processor, template="qwen_vl")


def published(path: Path, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Path:
    """The same as Qwen-VL's own folder; returns it."""
    from vlforge.checkpoints.checkpoint import Writing
    from vlforge.checkpoints.index import find, read_checkpoint
    from vlforge.models.folder import write_folder

    write_folder(folder(seed), path / "ours")
    out = path / "published"
    out.mkdir()
    find("qwen_vl").write(read_checkpoint(path / "ours"), out, Writing(dtype=dtype))
    return out
