"""CLIP ViT in small: the whole model, as `openai/clip-vit-large-patch14-336` is given out."""

from __future__ import annotations

from pathlib import Path

from vlforge.miniatures.scenes import every_text
from vlforge.miniatures.tokenizers import learn_merges
from vlforge.miniatures.weights import Shapes, random_state, write_bin, write_json

WIDTH, INNER, LAYERS, HEADS, SHARED = 32, 64, 3, 4, 24
PATCH, SIDE = 14, 56
POSITIONS = 77
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def encoder_shapes(at: str) -> Shapes:
    """The layers of one of the two towers."""
    shapes = {}
    for layer in range(LAYERS):
        own = f"{at}.encoder.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.k_proj", WIDTH, WIDTH), ("self_attn.v_proj", WIDTH, WIDTH),
            ("self_attn.q_proj", WIDTH, WIDTH), ("self_attn.out_proj", WIDTH, WIDTH),
            ("mlp.fc1", INNER, WIDTH), ("mlp.fc2", WIDTH, INNER),
        ):  # fmt: skip
            shapes |= {f"{own}{name}.weight": (rows, columns), f"{own}{name}.bias": (rows,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{own}{name}.weight": (WIDTH,), f"{own}{name}.bias": (WIDTH,)}
    return shapes


def vision_shapes(side: int = SIDE) -> Shapes:
    """The picture's tower; `pre_layrnorm` is spelled as published."""
    at = "vision_model"
    return {
        f"{at}.embeddings.class_embedding": (WIDTH,),
        f"{at}.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        f"{at}.embeddings.position_embedding.weight": ((side // PATCH) ** 2 + 1, WIDTH),
        f"{at}.pre_layrnorm.weight": (WIDTH,), f"{at}.pre_layrnorm.bias": (WIDTH,),
        **encoder_shapes(at),
        f"{at}.post_layernorm.weight": (WIDTH,), f"{at}.post_layernorm.bias": (WIDTH,),
    }  # fmt: skip


def text_shapes(words: int) -> Shapes:
    """The text's tower."""
    at = "text_model"
    return {
        f"{at}.embeddings.token_embedding.weight": (words, WIDTH),
        f"{at}.embeddings.position_embedding.weight": (POSITIONS, WIDTH),
        **encoder_shapes(at),
        f"{at}.final_layer_norm.weight": (WIDTH,), f"{at}.final_layer_norm.bias": (WIDTH,),
    }  # fmt: skip


def write_clip(folder: Path, seed: int, side: int = SIDE) -> Path:
    """Both towers with tokenizer and image processor, for pictures of `side` pixels."""
    words = _write_tokenizer(folder, seed)
    shapes = {
        "logit_scale": (), **vision_shapes(side), **text_shapes(words),
        "visual_projection.weight": (SHARED, WIDTH), "text_projection.weight": (SHARED, WIDTH),
    }  # fmt: skip
    write_bin(folder, random_state(shapes, seed))
    sizes = {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05,
        "projection_dim": SHARED, "attention_dropout": 0.0,
    }  # fmt: skip
    vision = {"model_type": "clip_vision_model", "image_size": side, "patch_size": PATCH}
    text = {
        "model_type": "clip_text_model", "vocab_size": words, "max_position_embeddings": POSITIONS,
        "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1,
    }  # fmt: skip
    fields = {
        "_name_or_path": "openai/clip-vit-large-patch14-336", "architectures": ["CLIPModel"],
        "initializer_factor": 1.0, "logit_scale_init_value": 2.6592, "model_type": "clip",
        "projection_dim": SHARED, "text_config": sizes | text, "torch_dtype": "float32",
        "vision_config": sizes | vision,
    }  # fmt: skip
    write_json(folder / "config.json", fields)
    write_json(folder / "preprocessor_config.json", preprocessor(side))
    return folder


def preprocessor(side: int) -> dict[str, object]:
    """CLIP's `preprocessor_config.json` for pictures of `side` pixels."""
    return {
        "crop_size": side, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD,
        "resample": 3, "size": side,
    }  # fmt: skip


def _write_tokenizer(folder: Path, seed: int) -> int:
    """CLIP's files: byte-level BPE in lower case with `</w>` at a word's end."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    always = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    spelled = [
        [*word[:-1], f"{word[-1]}</w>"]
        for text in every_text(seed)
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text.lower())
        if word.strip("Ġ").isalpha()
    ]
    pairs = learn_merges(spelled, 320)
    names = [*dict.fromkeys([*always, *("".join(pair) for pair in pairs)]), BEGIN, END]
    ids = {name: number for number, name in enumerate(names)}
    backend.model = models.BPE(vocab=ids, merges=pairs, end_of_word_suffix="</w>", unk_token=END)
    backend.add_special_tokens([BEGIN, END])
    ends = ((END, ids[END]), (BEGIN, ids[BEGIN]))
    backend.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False)
    backend.save(str(folder / "tokenizer.json"))
    write_json(folder / "vocab.json", ids)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = {"bos_token": BEGIN, "eos_token": END, "pad_token": END, "unk_token": END}
    write_json(folder / "special_tokens_map.json", tokens)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": POSITIONS}
    write_json(folder / "tokenizer_config.json", settings | {"do_lower_case": True} | tokens)
    return len(names)
