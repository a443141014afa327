"""A Mini-Gemini of a few thousand weights: 16 pixels low, 64 pixels high, 4 x 4 tokens."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    GemmaConfig,
    MistralConfig,
    MixtralConfig,
)

from tests.tiny_model import CLIP, llama_config
from vlforge.models.mgm import MgmConfig, MgmModel
from vlforge.models.parts import convnext

LOW = CLIP | {"image_size": 16}
HIGH = {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 2, 1], "layer_norm_eps": 1e-6}
SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1,
}  # fmt: skip
EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}


def text_config(kind: str = "llama"):
    """A language model's configuration by its kind."""
    if kind.startswith("gemma"):
        config = GemmaConfig(**SIZES, head_dim=8)
        config.hidden_act = "gelu" if kind == "gemma" else "gelu_pytorch_tanh"
        return config
    kinds = {
        "llama": lambda: llama_config(),
        "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
        "mixtral": lambda: MixtralConfig(**SIZES, **EXPERTS, sliding_window=None),
    }
    return kinds[kind]()


def mgm_config(kind: str = "llama", **changes) -> MgmConfig:
    """The configuration of a tiny model."""
    parts = {
        "vision_config": CLIPVisionConfig(**LOW),
        "vision_high_config": ConvNextConfig(**(HIGH | changes.pop("high", {}))),
        "text_config": text_config(kind),
        "image_size_high": 64,
    }
    return MgmConfig(**(parts | changes))


def mgm(kind: str = "llama", seed: int = 0, **changes) -> MgmModel:
    """A model with random weights, its biases and layer scales too."""
    torch.manual_seed(seed)
    model = MgmModel(mgm_config(kind, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.startswith("language."):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def write_towers(folder: Path, model: MgmModel, *, has_text: bool = True) -> tuple[Path, Path]:
    """CLIP's folder and OpenCLIP's ConvNeXt's, with this model's encoders in them."""
    low, high = folder / "openai-clip", folder / "openclip-convnext"
    clip = CLIPVisionModel(CLIPVisionConfig(**LOW))
    clip.load_state_dict(model.vision.low.tower.state_dict())
    clip.save_pretrained(low)
    high.mkdir(parents=True)
    weights = {
        "visual.trunk." + convnext.timm_name(name): tensor.contiguous()
        for name, tensor in model.vision.high.tower.state_dict().items()
    }
    if has_text:
        weights |= {"logit_scale": torch.ones(()), "visual.trunk.head.norm.weight": torch.ones(10)}
        weights |= {"text.token_embedding.weight": torch.ones(3, 2)}
    torch.save(weights, high / "open_clip_pytorch_model.bin")
    fields = {
        "model_cfg": {"vision_cfg": {"timm_model_name": "convnext_tiny", "timm_drop_path": 0.1}},
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }
    (high / "open_clip_config.json").write_text(json.dumps(fields))
    return low, high
