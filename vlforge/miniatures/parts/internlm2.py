"""InternLM2-chat in small, under its own names, with `wqkv` in one."""

from __future__ import annotations

from pathlib import Path

from vlforge.miniatures.parts.llama import BYTES
from vlforge.miniatures.tokenizers import write_internlm2_tokenizer
from vlforge.miniatures.weights import Shapes, quieten, random_state, write_bin, write_json

WIDTH, INNER, LAYERS, HEADS, GROUPS = 32, 64, 2, 4, 2
_CODE = "modeling_internlm2.InternLM2ForCausalLM"


def internlm2_shapes(words: int) -> Shapes:
    """InternLM2's tensors."""
    fused = (HEADS + 2 * GROUPS) * (WIDTH // HEADS)
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (words, WIDTH)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {
            f"{at}attention.wqkv.weight": (fused, WIDTH),
            f"{at}attention.wo.weight": (WIDTH, WIDTH),
            f"{at}feed_forward.w1.weight": (INNER, WIDTH),
            f"{at}feed_forward.w3.weight": (INNER, WIDTH),
            f"{at}feed_forward.w2.weight": (WIDTH, INNER),
            f"{at}attention_norm.weight": (WIDTH,),
            f"{at}ffn_norm.weight": (WIDTH,),
        }
    return shapes | {"model.norm.weight": (WIDTH,), "output.weight": (words, WIDTH)}


def write_internlm2(folder: Path, seed: int) -> Path:
    """internlm2-chat-7b as it is given out, without its code: config.json only names it."""
    words = write_internlm2_tokenizer(folder, seed)
    state = random_state(internlm2_shapes(words), seed, dtype="bfloat16")
    quieten(state["output.weight"], BYTES)
    write_bin(folder, state, shards=2)
    fields = {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModel": _CODE, "AutoModelForCausalLM": _CODE,
        },
        "attn_implementation": "eager", "bias": False, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": INNER, "max_position_embeddings": 32768, "model_type": "internlm2",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": GROUPS,
        "pad_token_id": 2, "rms_norm_eps": 1e-05, "rope_theta": 1000000,
        "rope_scaling": {"type": "dynamic", "factor": 2.0}, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.37.1", "use_cache": True,
        "vocab_size": words,
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    ends = {"bos_token_id": 1, "eos_token_id": [2, words - 2], "pad_token_id": 2}
    write_json(folder / "generation_config.json", ends)
    return folder
