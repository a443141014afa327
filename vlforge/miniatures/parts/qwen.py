"""MGen-VL's weights in small, as PaddleMIX has them: `.pdparams`, `qwen.tiktoken`.

A picture is 256 tokens wide, as published; Paddle holds linear weights as [inputs, outputs].
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from vlforge.miniatures.weights import Shapes, quieten, random_state, write_json

WIDTH, HEADS, LAYERS, INNER = 32, 2, 2, 96
VIT_WIDTH, VIT_HEADS, VIT_LAYERS, VIT_RATIO, IMAGE_SIZE = 24, 2, 2, 2.0, 112
POSITIONS = 256
SPECIALS, BEFORE_IMAGE, SPARE = 217, 214, 7
"""Special tokens behind the ranks, how many come before `<img>`, and rows without a token."""


def mgen_shapes(words: int) -> Shapes:
    """Names and shapes as Paddle has them."""
    shapes = {"transformer.llm.wte.weight": (words, WIDTH)}
    for layer in range(LAYERS):
        at = f"transformer.llm.h.{layer}."
        shapes |= {
            f"{at}ln_1.weight": (WIDTH,),
            f"{at}attn.c_attn.weight": (WIDTH, 3 * WIDTH),
            f"{at}attn.c_attn.bias": (3 * WIDTH,),
            f"{at}attn.c_proj.weight": (WIDTH, WIDTH),
            f"{at}ln_2.weight": (WIDTH,),
            f"{at}mlp.w1.weight": (WIDTH, INNER // 2),
            f"{at}mlp.w2.weight": (WIDTH, INNER // 2),
            f"{at}mlp.c_proj.weight": (INNER // 2, WIDTH),
        }
    shapes |= {"transformer.llm.ln_f.weight": (WIDTH,), "lm_head.weight": (WIDTH, words)}
    return shapes | _vit_shapes() | _pool_shapes()


def _vit_shapes() -> Shapes:
    width, inner, vit = VIT_WIDTH, int(VIT_WIDTH * VIT_RATIO), "visual.vit."
    shapes = {
        f"{vit}positional_embedding": (POSITIONS, width),
        f"{vit}conv1.weight": (width, 3, 14, 14),
        **_norm(f"{vit}ln_pre", width),
    }
    for layer in range(VIT_LAYERS):
        at = f"{vit}transformer.resblocks.{layer}."
        shapes |= {
            **_norm(f"{at}ln_1", width),
            **_norm(f"{at}ln_2", width),
            **_linear(f"{at}attn.in_proj", width, 3 * width),
            **_linear(f"{at}attn.out_proj", width, width),
            **_linear(f"{at}mlp.c_fc", width, inner),
            **_linear(f"{at}mlp.c_proj", inner, width),
        }
    return shapes


def _pool_shapes() -> Shapes:
    pool = "visual.attn_pool."
    return {
        f"{pool}pos_embed": (POSITIONS, WIDTH),
        f"{pool}query": (POSITIONS, WIDTH),
        f"{pool}kv_proj.weight": (VIT_WIDTH, WIDTH),
        f"{pool}attn.in_proj_weight": (WIDTH, 3 * WIDTH),
        f"{pool}attn.in_proj_bias": (3 * WIDTH,),
        **_linear(f"{pool}attn.out_proj", WIDTH, WIDTH),
        **_norm(f"{pool}ln_q", WIDTH),
        **_norm(f"{pool}ln_kv", WIDTH),
        **_norm("visual.ln_post", WIDTH),
        "visual.proj": (WIDTH, WIDTH),
    }


def write_mgen_vl(folder: Path, seed: int, texts: Iterable[str]) -> Path:
    """mgen-vl-chat-7b as the contest gives it: bf16 weights, settings, tokenizer."""
    from vlforge.checkpoints.pdparams import write_pdparams
    from vlforge.checkpoints.weights import Lazy

    folder.mkdir(parents=True, exist_ok=True)
    ranks = write_tiktoken(folder, texts)
    words = ranks + SPECIALS + SPARE
    state = random_state(mgen_shapes(words), seed, dtype="bfloat16", gain=2.0)
    for seldom in (range(256), range(ranks, words)):  # single bytes; signs of the conversation
        quieten(state["lm_head.weight"].t(), seldom)
    lazy = {name: Lazy.of(tensor, name) for name, tensor in state.items()}
    write_pdparams(lazy, folder / "model_state.pdparams")
    visual = {
        "heads": VIT_HEADS, "image_size": IMAGE_SIZE, "image_start_id": ranks + BEFORE_IMAGE,
        "layers": VIT_LAYERS, "mlp_ratio": VIT_RATIO, "output_dim": WIDTH, "patch_size": 14,
        "width": VIT_WIDTH,
    }  # fmt: skip
    fields = {
        "architectures": ["MGenVLModel"], "attn_dropout_prob": 0.0, "bf16": True,
        "emb_dropout_prob": 0.0, "fp16": False, "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": INNER, "kv_channels": WIDTH // HEADS, "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": 8192, "model_type": "qwen", "no_bias": True,
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "onnx_safe": None,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "scale_attn_weights": True,
        "seq_length": 2048, "tie_word_embeddings": False, "tokenizer_type": "QWenTokenizer",
        "use_cache": True, "use_dynamic_ntk": True, "use_logn_attn": True, "visual": visual,
        "vocab_size": words,
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    end = ranks
    chat = {"chat_format": "chatml", "eos_token_id": end, "pad_token_id": end,
            "max_window_size": 6144, "max_new_tokens": 512, "do_sample": True, "top_k": 0,
            "top_p": 0.3}  # fmt: skip
    write_json(folder / "generation_config.json", chat)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "QWenTokenizer"})
    return folder


def write_tiktoken(folder: Path, texts: Iterable[str]) -> int:
    """`qwen.tiktoken` with every byte and the texts' characters and words; how many ranks."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    pieces = sorted({piece for text in texts for piece in _pieces(text)})
    for piece in pieces:
        for end in range(2, len(piece) + 1):
            ranks.setdefault(piece[:end], len(ranks))
    lines = (base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items())
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    return len(ranks)


def _pieces(text: str) -> set[bytes]:
    """Chinese character by character, Latin words with the space before them."""
    words = {f" {word}".encode() for word in text.split() if word.isascii() and word.isalpha()}
    return words | {letter.encode() for letter in text if not letter.isascii()}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}
