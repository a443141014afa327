"""Published models at their real sizes: the `config.json` that a whole one has here.

`vlforge plan NAME` tells what each costs; benchmarks and tests build them. No torch.
Sources: the models' own cards and configurations, as the references' recipes name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]

CLIP_L_336: Config = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
CONVNEXT_L: Config = {
    "model_type": "convnext", "hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3],
    "patch_size": 4, "num_channels": 3,
}  # fmt: skip
EVA_VIT_G: Config = {
    "model_type": "vlforge_eva_vit", "image_size": 224, "patch_size": 14, "hidden_size": 1408,
    "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
}  # fmt: skip
QFORMER: Config = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "encoder_hidden_size": 1408, "cross_attention_frequency": 2,
    "query_tokens": 32,
}  # fmt: skip
QWEN_VIT_G: Config = {
    "model_type": "vlforge_qwen_vit", "image_size": 448, "patch_size": 14, "width": 1664,
    "layers": 48, "heads": 16, "mlp_ratio": 4.9231,
}  # fmt: skip


def _decoder(
    kind: str, sizes: tuple[int, int, int, int, int], vocabulary: int, **more: Any
) -> Config:
    """A decoder of (width, inner width, layers, heads, key heads)."""
    width, inner, layers, heads, keys = sizes
    return {
        "model_type": kind, "vocab_size": vocabulary, "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": keys, "tie_word_embeddings": False,
    } | more  # fmt: skip


VICUNA_7B = _decoder("llama", (4096, 11008, 32, 32, 32), 32000, max_position_embeddings=4096)
VICUNA_13B = _decoder("llama", (5120, 13824, 40, 40, 40), 32000, max_position_embeddings=4096)
LLAMA3_8B = _decoder("llama", (4096, 14336, 32, 32, 8), 128256, max_position_embeddings=8192)
INTERNLM2_7B = _decoder("llama", (4096, 14336, 32, 32, 8), 92544, max_position_embeddings=32768)
YI_34B = _decoder("llama", (7168, 20480, 60, 56, 8), 64000, max_position_embeddings=4096)
MISTRAL_7B = _decoder("mistral", (4096, 14336, 32, 32, 8), 32000, max_position_embeddings=32768)
GEMMA_2B = _decoder(
    "gemma", (2048, 16384, 18, 8, 1), 256000, head_dim=256, hidden_act="gelu",
    tie_word_embeddings=True, max_position_embeddings=8192,
)  # fmt: skip
MIXTRAL_8X7B = _decoder(
    "mixtral", (4096, 14336, 32, 32, 8), 32000, num_local_experts=8, num_experts_per_tok=2,
    max_position_embeddings=32768,
)  # fmt: skip
QWEN2_0_5B = _decoder(
    "qwen2", (896, 4864, 24, 14, 2), 151936, tie_word_embeddings=True,
    max_position_embeddings=32768,
)  # fmt: skip
QWEN_7B: Config = {
    "model_type": "qwen", "vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "kv_channels": 128, "intermediate_size": 22016,
    "tie_word_embeddings": False,
}  # fmt: skip


def _llava(text: Config, **more: Any) -> Config:
    return {
        "model_type": "vlforge_llava", "vision_config": CLIP_L_336, "text_config": text,
        "connector": "mlp2x_gelu", "select_layer": -2, "image_aspect_ratio": "pad",
    } | more  # fmt: skip


def _mgm(text: Config, hd: bool = False) -> Config:
    return {
        "model_type": "vlforge_mgm", "vision_config": CLIP_L_336, "text_config": text,
        "vision_high_config": CONVNEXT_L, "connector": "mlp2x_gelu", "select_layer": -2,
        "image_aspect_ratio": "pad", "image_size_high": 1536 if hd else 768,
        "image_grid": 2 if hd else 1, "image_global": hd,
    }  # fmt: skip


def _minigpt4(text: Config) -> Config:
    return {
        "model_type": "vlforge_minigpt4", "vision_config": EVA_VIT_G,
        "qformer_config": QFORMER, "text_config": text,
    }  # fmt: skip


SIZES: Mapping[str, Config] = {
    "llava-1.5-7b": _llava(VICUNA_7B),
    "llava-1.5-13b": _llava(VICUNA_13B),
    "llava-1.6-7b": _llava(
        VICUNA_7B,
        image_aspect_ratio="anyres",
        patch_merge="spatial_unpad",
        image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    ),
    "llava-internlm2-7b": _llava(INTERNLM2_7B),
    "llava-mistral-7b": _llava(MISTRAL_7B),
    "llava-qwen2-0.5b": _llava(QWEN2_0_5B),
    "mgm-2b": _mgm(GEMMA_2B),
    "mgm-7b": _mgm(VICUNA_7B),
    "mgm-7b-hd": _mgm(VICUNA_7B, hd=True),
    "mgm-8b": _mgm(LLAMA3_8B),
    "mgm-8b-hd": _mgm(LLAMA3_8B, hd=True),
    "mgm-13b": _mgm(VICUNA_13B),
    "mgm-13b-hd": _mgm(VICUNA_13B, hd=True),
    "mgm-34b": _mgm(YI_34B),
    "mgm-8x7b": _mgm(MIXTRAL_8X7B),
    "minigpt4-7b": _minigpt4(VICUNA_7B),
    "minigpt4-13b": _minigpt4(VICUNA_13B),
    "qwen-vl-7b": {
        "model_type": "vlforge_qwen_vl",
        "vision_config": QWEN_VIT_G,
        "text_config": QWEN_7B,
    },
}
"""By the name that `vlforge plan` takes; `qwen-vl-7b` is also MGen-VL's."""

PARTS: Mapping[str, Config] = {
    "clip-vit-large-patch14-336": CLIP_L_336,
    "openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup": CONVNEXT_L,
    "vicuna-7b": VICUNA_7B,
    "vicuna-7b-v1.5": VICUNA_7B,
    "7B-V1.5": VICUNA_7B,
    "vicuna-13b": VICUNA_13B,
    "vicuna-13b-v1.5": VICUNA_13B,
    "13B-V1.5": VICUNA_13B,
    "gemma-2b-it": GEMMA_2B,
    "Meta-Llama-3-8B-Instruct": LLAMA3_8B,
    "internlm2-chat-7b": INTERNLM2_7B,
    "Qwen-VL-Chat": {"visual": QWEN_VIT_G} | QWEN_7B,
    "mgen-vl-7b": SIZES["qwen-vl-7b"],
    "mgen-vl-chat-7b": SIZES["qwen-vl-7b"],
}
"""By the folder's name, for a plan before anything is downloaded."""
