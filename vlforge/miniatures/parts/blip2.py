"""BLIP-2 with OPT in small, as `Salesforce/blip2-opt-2.7b` is given out."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vlforge.miniatures.parts.clip import MEAN, STD
from vlforge.miniatures.scenes import every_text
from vlforge.miniatures.tokenizers import learn_merges
from vlforge.miniatures.weights import (
    Shapes,
    quieten,
    random_state,
    write_json,
    write_safetensors,
)

WIDTH, INNER, LAYERS, HEADS = 32, 64, 2, 4
PATCH, SIDE, QUERIES, POSITIONS = 14, 28, 4, 200
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_PICTURE, _LINE_END = "<image>", "Ċ"
_LAST_WORD = 12
"""Captions end after so many tokens."""
_Q_WORDS = 64
"""Words of the Q-Former's table, which captioning does not read."""


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str) -> Shapes:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def vision_shapes() -> Shapes:
    """The picture's tower."""
    at = "vision_model."
    shapes = {
        f"{at}embeddings.class_embedding": (1, 1, WIDTH),
        f"{at}embeddings.position_embedding": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        f"{at}embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        f"{at}embeddings.patch_embedding.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        own = f"{at}encoder.layers.{layer}."
        shapes |= _linear(f"{own}self_attn.qkv", 3 * WIDTH, WIDTH)
        shapes |= _linear(f"{own}self_attn.projection", WIDTH, WIDTH)
        shapes |= _linear(f"{own}mlp.fc1", INNER, WIDTH) | _linear(f"{own}mlp.fc2", WIDTH, INNER)
        shapes |= _norm(f"{own}layer_norm1") | _norm(f"{own}layer_norm2")
    return shapes | _norm(f"{at}post_layernorm")


def qformer_shapes() -> Shapes:
    """The Q-Former: cross attention in every second layer."""
    shapes: dict[str, tuple[int, ...]] = {"query_tokens": (1, QUERIES, WIDTH)}
    shapes |= _norm("qformer.layernorm")
    for layer in range(LAYERS):
        own = f"qformer.encoder.layer.{layer}."
        for kind in ("attention", "crossattention") if layer % 2 == 0 else ("attention",):
            for part in ("query", "key", "value"):
                shapes |= _linear(f"{own}{kind}.attention.{part}", WIDTH, WIDTH)
            shapes |= _linear(f"{own}{kind}.output.dense", WIDTH, WIDTH)
            shapes |= _norm(f"{own}{kind}.output.LayerNorm")
        shapes |= _linear(f"{own}intermediate_query.dense", INNER, WIDTH)
        shapes |= _linear(f"{own}output_query.dense", WIDTH, INNER)
        shapes |= _norm(f"{own}output_query.LayerNorm")
    return shapes | _linear("language_projection", WIDTH, WIDTH)


def opt_shapes(words: int) -> Shapes:
    """OPT, whose table of positions begins with two rows of no position."""
    at = "language_model.model.decoder."
    shapes: dict[str, tuple[int, ...]] = {
        f"{at}embed_tokens.weight": (words, WIDTH),
        f"{at}embed_positions.weight": (POSITIONS + 2, WIDTH),
        **_norm(f"{at}final_layer_norm"),
    }
    for layer in range(LAYERS):
        own = f"{at}layers.{layer}."
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{own}self_attn.{part}", WIDTH, WIDTH)
        shapes |= _linear(f"{own}fc1", INNER, WIDTH) | _linear(f"{own}fc2", WIDTH, INNER)
        shapes |= _norm(f"{own}self_attn_layer_norm") | _norm(f"{own}final_layer_norm")
    return shapes


def write_blip2(folder: Path, seed: int) -> Path:
    """The folder of blip2-opt-2.7b: fp32 in two shards, OPT's byte-level tokenizer."""
    ids = _write_tokenizer(folder, seed)
    words = len(ids)
    shapes = {**vision_shapes(), **qformer_shapes(), **opt_shapes(words)}
    state = random_state(shapes, seed, gain=2.0)
    _make_sentences(state, ids[_LINE_END])
    write_safetensors(folder, state, shards=2)
    sizes = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    }  # fmt: skip
    vision = {
        "image_size": SIDE, "patch_size": PATCH, "intermediate_size": INNER, "hidden_act": "gelu",
        "layer_norm_eps": 1e-05, "model_type": "blip_2_vision_model", "qkv_bias": True,
    }  # fmt: skip
    queries = {
        "encoder_hidden_size": WIDTH, "intermediate_size": INNER, "cross_attention_frequency": 2,
        "max_position_embeddings": 32, "model_type": "blip_2_qformer", "vocab_size": _Q_WORDS,
    }  # fmt: skip
    text = {
        "_name_or_path": "facebook/opt-2.7b", "activation_function": "relu", "bos_token_id": 2,
        "do_layer_norm_before": True, "eos_token_id": ids[_LINE_END], "ffn_dim": INNER,
        "max_position_embeddings": POSITIONS, "model_type": "opt", "pad_token_id": 1,
        "vocab_size": words, "word_embed_proj_dim": WIDTH, "architectures": ["OPTForCausalLM"],
    }  # fmt: skip
    fields = {
        "architectures": ["Blip2ForConditionalGeneration"], "initializer_factor": 1.0,
        "image_token_index": ids[_PICTURE], "initializer_range": 0.02,
        "is_encoder_decoder": False, "model_type": "blip-2",
        "num_query_tokens": QUERIES, "qformer_config": sizes | queries, "text_config": sizes | text,
        "tie_word_embeddings": False, "torch_dtype": "float32",
        "use_decoder_only_language_model": True, "vision_config": sizes | vision,
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    pixels = {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": MEAN, "image_std": STD, "image_processor_type": "BlipImageProcessor",
        "processor_class": "Blip2Processor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }  # fmt: skip
    write_json(folder / "preprocessor_config.json", pixels)
    told = {"image_token": _PICTURE, "num_query_tokens": QUERIES}
    write_json(folder / "processor_config.json", told | {"processor_class": "Blip2Processor"})
    ends = {"bos_token_id": 2, "eos_token_id": ids[_LINE_END], "pad_token_id": 1}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
    return folder


def _make_sentences(state: dict[str, Tensor], end: int) -> None:
    """Let captions consist of words, not of single bytes, and end where a sentence does.

    A direction of the hidden state tells early from late places; the end's row is along it.
    """
    decoder = "language_model.model.decoder."
    words, places = (
        state[f"{decoder}embed_tokens.weight"],
        state[f"{decoder}embed_positions.weight"],
    )
    quieten(words, range(len(_FIRST) + 256))
    along = state[f"{decoder}final_layer_norm.bias"].clone()
    along /= along.norm()
    words[end] = 5 * along
    late = 2 + QUERIES + 1 + _LAST_WORD
    places *= 3  # so that a sentence does not repeat one word
    places[:late] -= 6 * along
    places[late:] += 20 * along


def _write_tokenizer(folder: Path, seed: int) -> dict[str, int]:
    """OPT's files: byte-level BPE, `</s>` before every text; the tokens' ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = [
        list(word)
        for text in every_text(seed)
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)
        if word.strip("Ġ").isalpha()
    ]
    pairs = learn_merges(spelled, 320)
    names = dict.fromkeys([*_FIRST, *alphabet, *("".join(pair) for pair in pairs)])
    backend.model = models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=pairs)
    backend.add_special_tokens(list(_FIRST))
    backend.add_special_tokens([_PICTURE])
    end = "</s>"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A {end} $B", special_tokens=[(end, _FIRST.index(end))]
    )
    backend.save(str(folder / "tokenizer.json"))
    backend.model.save(str(folder))  # vocab.json, merges.txt
    tokens = {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": "<pad>"}
    settings = {
        "add_bos_token": True, "add_prefix_space": False, "processor_class": "Blip2Processor",
        "model_max_length": 1000000000000000019884624838656, "tokenizer_class": "GPT2Tokenizer",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings | tokens)
    write_json(folder / "special_tokens_map.json", tokens)
    return dict(backend.get_vocab(with_added_tokens=True))
