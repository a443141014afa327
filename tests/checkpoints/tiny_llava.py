"""LLaVA models of a few thousand weights as folders of every layout, and questions to ask them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from tests.inference.tiny import tiny_tokenizer
from vlforge.checkpoints.checkpoint import Checkpoint
from vlforge.checkpoints.index import read_checkpoint
from vlforge.models.folder import ModelFolder, write_folder
from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.parts.image_processor import ImageProcessor

SIZES = {
    "vocab_size": 18, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LANGUAGES = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama_long": lambda: LlamaConfig(
        **SIZES, rope_theta=500.0, rope_scaling={"rope_type": "linear", "factor": 2.0}
    ),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=8),
    "tied": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "phi": lambda: PhiConfig(**SIZES),
    "gemma": lambda: GemmaConfig(**SIZES, head_dim=8, hidden_act="gelu"),
    "phi3": lambda: Phi3Config(**SIZES),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=3),
}
_TOWER = {
    "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
}  # fmt: skip
TOWERS = {
    "clip": lambda: CLIPVisionConfig(**_TOWER),
    "siglip": lambda: SiglipVisionConfig(**_TOWER),
}


def model(language: str = "llama", tower: str = "clip", **config) -> LlavaModel:
    """A model of random weights, wide enough apart that answers differ."""
    torch.manual_seed(0)
    made = LlavaModel(
        LlavaConfig(vision_config=TOWERS[tower](), text_config=LANGUAGES[language](), **config)
    )
    for parameter in (*made.connector.parameters(), *made.vision.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval()


def processor_of(made: LlavaModel) -> ImageProcessor:
    """How the model's pictures are made."""
    mode = made.config.image_aspect_ratio
    own = {}
    if made.config.vision_config.model_type == "siglip_vision_model":
        own = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        mode = "stretch" if mode == "square" else mode
    return made.adapt_processor(ImageProcessor(size=made.image_size, fit_mode=mode, **own))


def folder(out: Path, made: LlavaModel, template: str = "v1") -> Path:
    """The model as a folder of ours."""
    write_folder(ModelFolder(made, tiny_tokenizer(), processor_of(made), template), out)
    return out


def checkpoint(out: Path, made: LlavaModel, template: str = "v1") -> Checkpoint:
    """The model as a checkpoint, read from a folder of ours."""
    return read_checkpoint(folder(out, made, template))


def ids(pictures: int = 1) -> torch.Tensor:
    """A question about pictures."""
    return torch.tensor([[1, 5, *[-200, 6] * pictures, 7, 8, 9]])


def logits(made: LlavaModel, pixels: torch.Tensor, sizes=None) -> torch.Tensor:
    """What the model says of one picture."""
    with torch.no_grad():
        return made(ids(), pixels, sizes=sizes).logits[0]


def same_weights(found: Checkpoint, wanted: Checkpoint) -> None:
    """Every weight of both, bit by bit."""
    assert set(found.weights) == set(wanted.weights)
    for name, lazy in wanted.weights.items():
        ours, theirs = found.weights[name].read(), lazy.read()
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
