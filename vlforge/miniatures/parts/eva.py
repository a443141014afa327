"""MiniGPT-4's weights in small: EVA-ViT-g, BLIP-2's Q-Former, Vicuna v0, a stage's checkpoint.

Picture and patch size, and the 32 queries, are the published ones; no shape tells the heads,
so `minigpt4.json` beside the files does.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vlforge.miniatures.parts.llama import BYTES, INNER, LAYERS, WIDTH, llama_shapes
from vlforge.miniatures.parts.llama import HEADS as LANGUAGE_HEADS
from vlforge.miniatures.tokenizers import write_llama_tokenizer
from vlforge.miniatures.weights import Shapes, quieten, random_state, write_bin, write_json

EVA_WIDTH, EVA_HEADS, EVA_LAYERS, PATCHES = 32, 2, 2, 16
Q_WIDTH, Q_HEADS, Q_LAYERS, QUERIES = 24, 3, 4, 32
T5_WIDTH, BERT_WORDS = 48, 40
TURNS = ("###Human: <Img></Img> ###Assistant: ", "###Human: </Img> Give the following image")
"""What the tokenizer has to know besides the data: `###` is one token of a v0."""


def eva_shapes() -> Shapes:
    """`eva_vit_g.pth`, its last norm and head among them, which BLIP-2 does not run."""
    width, inner = EVA_WIDTH, int(EVA_WIDTH * 4.3637)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + PATCHES * PATCHES, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
    }
    for layer in range(EVA_LAYERS):
        at = f"blocks.{layer}."
        shapes |= {
            **_norm(f"{at}norm1", width),
            f"{at}attn.q_bias": (width,),
            f"{at}attn.v_bias": (width,),
            f"{at}attn.qkv.weight": (3 * width, width),
            **_linear(f"{at}attn.proj", width, width),
            **_norm(f"{at}norm2", width),
            **_linear(f"{at}mlp.fc1", inner, width),
            **_linear(f"{at}mlp.fc2", width, inner),
        }
    return shapes | _norm("norm", width) | _linear("head", 4, width)


def blip2_shapes() -> Shapes:
    """`blip2_pretrained_flant5xxl.pth`: with the text side and the way to T5."""
    bert = "Qformer.bert."
    shapes = {
        "query_tokens": (1, QUERIES, Q_WIDTH),
        **_norm("ln_vision", EVA_WIDTH),
        f"{bert}embeddings.word_embeddings.weight": (BERT_WORDS, Q_WIDTH),
        f"{bert}embeddings.position_embeddings.weight": (64, Q_WIDTH),
        **_norm(f"{bert}embeddings.LayerNorm", Q_WIDTH),
    }
    for layer in range(Q_LAYERS):
        at = f"{bert}encoder.layer.{layer}."
        shapes |= _attention(f"{at}attention.", Q_WIDTH)
        if layer % 2 == 0:
            shapes |= _attention(f"{at}crossattention.", EVA_WIDTH)
        for inner, output in (("intermediate", "output"), ("intermediate_query", "output_query")):
            shapes |= _linear(f"{at}{inner}.dense", 2 * Q_WIDTH, Q_WIDTH)
            shapes |= _linear(f"{at}{output}.dense", Q_WIDTH, 2 * Q_WIDTH)
            shapes |= _norm(f"{at}{output}.LayerNorm", Q_WIDTH)
    shapes |= {"Qformer.cls.predictions.bias": (BERT_WORDS,)}
    return shapes | _linear("t5_proj", T5_WIDTH, Q_WIDTH)


def write_encoders(folder: Path, seed: int) -> None:
    """`eva_vit_g.pth`, `blip2_pretrained_flant5xxl.pth` and `minigpt4.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    eva = random_state(eva_shapes(), seed, dtype="float16", gain=2.0)
    torch.save(eva, folder / "eva_vit_g.pth")
    blip = random_state(blip2_shapes(), seed, gain=2.0)
    blip["Qformer.bert.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save({"model": blip}, folder / "blip2_pretrained_flant5xxl.pth")
    told = {"vision_heads": EVA_HEADS, "qformer_heads": Q_HEADS, "image_size": 14 * PATCHES}
    write_json(folder / "minigpt4.json", told)


def write_stage(path: Path, seed: int) -> None:
    """A trained stage as MiniGPT-4 saves it: `llama_proj` and buffers of no use, the epoch."""
    state = random_state(_linear("llama_proj", WIDTH, Q_WIDTH), seed, gain=3.0)
    state["Qformer.bert.embeddings.position_ids"] = torch.arange(64)[None]
    for layer in range(LAYERS):
        name = f"llama_model.model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        state[name] = 10000.0 ** -torch.arange(0, 1, 2 * LANGUAGE_HEADS / WIDTH)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, "epoch": 3}, path)


def write_vicuna_v0(folder: Path, seed: int, texts: tuple[str, ...]) -> Path:
    """vicuna-7b v0, merged from its delta: fp16 in two `.bin` shards; turns end with `###`."""
    words = write_llama_tokenizer(folder, seed, (*texts, *TURNS * 20))
    state = random_state(llama_shapes(words), seed, dtype="float16")
    quieten(state["lm_head.weight"], BYTES)
    write_bin(folder, state, shards=2)
    fields = {
        "_name_or_path": "vicuna-7b", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": INNER, "max_position_embeddings": 2048, "max_sequence_length": 2048,
        "model_type": "llama", "num_attention_heads": LANGUAGE_HEADS,
        "num_hidden_layers": LAYERS, "pad_token_id": 0, "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False, "torch_dtype": "float16",
        "transformers_version": "4.28.0.dev0", "use_cache": True, "vocab_size": words,
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    told = {"_from_model_config": True, **ends, "transformers_version": "4.28.0.dev0"}
    write_json(folder / "generation_config.json", told)
    return folder


def write_bert_words(folder: Path) -> None:
    """bert-base-uncased as far as MiniGPT-4 reads it: configuration and vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, ".", ","]
    words += [f"##{letter}" for letter in letters[: BERT_WORDS - len(words)]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    fields = {
        "architectures": ["BertForMaskedLM"], "hidden_act": "gelu", "hidden_size": Q_WIDTH,
        "intermediate_size": 2 * Q_WIDTH, "layer_norm_eps": 1e-12, "max_position_embeddings": 64,
        "model_type": "bert", "num_attention_heads": Q_HEADS, "num_hidden_layers": Q_LAYERS,
        "pad_token_id": 0, "type_vocab_size": 2, "vocab_size": len(words),
    }  # fmt: skip
    write_json(folder / "config.json", fields)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _attention(at: str, seen: int) -> Shapes:
    """BERT's attention to tokens that are `seen` wide."""
    return {
        **_linear(f"{at}self.query", Q_WIDTH, Q_WIDTH),
        **_linear(f"{at}self.key", Q_WIDTH, seen),
        **_linear(f"{at}self.value", Q_WIDTH, seen),
        **_linear(f"{at}output.dense", Q_WIDTH, Q_WIDTH),
        **_norm(f"{at}output.LayerNorm", Q_WIDTH),
    }
