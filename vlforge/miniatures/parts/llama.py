"""Llama and Gemma in small, under their published names."""

from __future__ import annotations

from pathlib import Path

from vlforge.miniatures.tokenizers import write_gemma_tokenizer, write_llama_tokenizer
from vlforge.miniatures.weights import (
    Shapes,
    quieten,
    random_state,
    write_bin,
    write_json,
    write_safetensors,
)

WIDTH, INNER, LAYERS, HEADS = 32, 64, 2, 4
BYTES = range(3, 263)
"""Where pieces that are single bytes stand, and the symbols before them; seldom said."""


def llama_shapes(words: int, *, groups: int = HEADS, is_tied: bool = False) -> Shapes:
    """A Llama's tensors; `groups` key-value heads."""
    rows = WIDTH // HEADS * groups
    shapes = {"model.embed_tokens.weight": (words, WIDTH)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {
            f"{at}self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{at}self_attn.k_proj.weight": (rows, WIDTH),
            f"{at}self_attn.v_proj.weight": (rows, WIDTH),
            f"{at}self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{at}mlp.gate_proj.weight": (INNER, WIDTH),
            f"{at}mlp.up_proj.weight": (INNER, WIDTH),
            f"{at}mlp.down_proj.weight": (WIDTH, INNER),
            f"{at}input_layernorm.weight": (WIDTH,),
            f"{at}post_attention_layernorm.weight": (WIDTH,),
        }
    shapes["model.norm.weight"] = (WIDTH,)
    return shapes if is_tied else shapes | {"lm_head.weight": (words, WIDTH)}


def write_vicuna(folder: Path, seed: int, more: tuple[str, ...] = ()) -> Path:
    """vicuna-7b-v1.5 as it is given out: fp16 in two `.bin` shards, slow tokenizer files.

    Args:
        more: texts whose words its tokenizer has to know too.
    """
    words = write_llama_tokenizer(folder, seed, more)
    state = random_state(llama_shapes(words), seed, dtype="float16")
    quieten(state["lm_head.weight"], BYTES)
    write_bin(folder, state, shards=2)
    fields = {
        "_name_or_path": "vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": WIDTH,
        "initializer_range": 0.02, "intermediate_size": INNER, "max_position_embeddings": 4096,
        "model_type": "llama", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS, "pad_token_id": 0, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
        "torch_dtype": "float16", "transformers_version": "4.31.0", "use_cache": True,
        "vocab_size": words,
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    sampling = {"temperature": 0.9, "top_p": 0.6, "do_sample": True}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, **ends, **sampling, "max_length": 4096},
    )
    return folder


def write_gemma(folder: Path, seed: int) -> Path:
    """gemma-2b-it as it is given out: bf16 in two shards, one key-value head, tied words."""
    words = write_gemma_tokenizer(folder, seed)
    shapes = llama_shapes(words, groups=1, is_tied=True)
    state = random_state(shapes, seed, dtype="bfloat16", norm=0.0)
    quieten(state["model.embed_tokens.weight"], BYTES)
    write_safetensors(folder, state, shards=2)
    fields = {
        "architectures": ["GemmaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 2, "eos_token_id": 1, "head_dim": WIDTH // HEADS, "hidden_act": "gelu",
        "hidden_activation": None, "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": INNER, "max_position_embeddings": 8192, "model_type": "gemma",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": 1,
        "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 10000.0,
        "torch_dtype": "bfloat16", "transformers_version": "4.38.0.dev0", "use_cache": True,
        "vocab_size": words,
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    ends = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
    return folder
