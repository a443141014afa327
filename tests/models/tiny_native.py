"""Tiny image-text models of transformers with random weights and made processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CHATML = (
    "{{% for m in messages %}}<|im_start|>{{{{ m['role'] }}}}\n"
    "{{% for c in m['content'] %}}{{% if c['type'] == 'image' %}}{image}"
    "{{% else %}}{{{{ c['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


def tokenizer(*specials: str, **named: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ChatML's marks and some more, `named` ones by attributes."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *specials, *named.values()]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 + len(marks),
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["what colour is the car? it is red. user assistant"] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named,
    )


def qwen(out: Path) -> Path:
    """Qwen2.5-VL: patches by size, window attention, three-part positions."""
    words, named = _qwen_words()
    config = Qwen2_5_VLConfig(
        text_config=TEXT
        | {
            "vocab_size": len(words),
            "rope_parameters": _mrope(),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 112,
        },
        **named,
        tie_word_embeddings=False,
    )
    return _write_qwen(Qwen2_5_VLForConditionalGeneration, config, words, out)


def qwen2(out: Path) -> Path:
    """Qwen2-VL: patches by size, three-part positions."""
    words, named = _qwen_words()
    config = Qwen2VLConfig(
        text_config=TEXT | {"vocab_size": len(words), "rope_parameters": _mrope()},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 4,
            "mlp_ratio": 2,
        },
        **named,
        tie_word_embeddings=True,
    )
    return _write_qwen(Qwen2VLForConditionalGeneration, config, words, out)


def qwen3(out: Path) -> Path:
    """Qwen3-VL: the encoder's earlier layers go into the decoder's, positions interleaved."""
    words, named = _qwen_words()
    config = Qwen3VLConfig(
        text_config=TEXT
        | {
            "vocab_size": len(words),
            "head_dim": 8,
            "rope_parameters": _mrope() | {"mrope_interleaved": True},
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 14,
            "out_hidden_size": 32,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
        },
        **named,
        tie_word_embeddings=False,
    )
    return _write_qwen(Qwen3VLForConditionalGeneration, config, words, out)


def _qwen_words() -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    """The tokenizer, and the ids that configurations name."""
    tokens = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    words = tokenizer(*tokens.values())
    return words, {name: words.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _write_qwen(kind: Any, config: Any, words: Any, out: Path) -> Path:
    pictures = Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    return _write(kind, config, words, pictures, image, out)


def _mrope() -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def llava(out: Path) -> Path:
    """LLaVA-1.5 as transformers has it: CLIP's last layer but one, a fixed number of tokens."""
    words = tokenizer("<image>")
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        text_config={"model_type": "llama", "vocab_size": len(words)} | TEXT,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    own = {
        "patch_size": 14,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
        "image_token": "<image>",
        "processor_class": "LlavaProcessor",
    }
    return _write(LlavaForConditionalGeneration, config, words, pictures, "<image>\n", out, own)


def internvl(out: Path) -> Path:
    """InternVL: square tiles, each of them four tokens between two of its own."""
    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [28, 28],
            "patch_size": [7, 7],
        },
        text_config={"model_type": "qwen2", "vocab_size": len(words)} | TEXT,
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    pictures = GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    own = {"image_seq_length": 4, "processor_class": "InternVLProcessor"}
    kind = InternVLForConditionalGeneration
    return _write(kind, config, words, pictures, "<IMG_CONTEXT>\n", out, own)


def onevision(out: Path) -> Path:
    """LLaVA-OneVision: tiles by shape, unpadded, with newlines."""
    words = tokenizer("<image>", "<video>")
    ids = words.convert_tokens_to_ids
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "vision_use_head": False,
    }
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", "vocab_size": len(words)} | TEXT,
        image_token_index=ids("<image>"),
        image_token_id=ids("<image>"),
        video_token_index=ids("<video>"),
        video_token_id=ids("<video>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    pictures = LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=grid
    )
    own = {
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        "image_token": "<image>",
        "video_token": "<video>",
        "processor_class": "LlavaOnevisionProcessor",
    }
    kind = LlavaOnevisionForConditionalGeneration
    return _write(kind, config, words, pictures, "<image>\n", out, own)


def gemma(out: Path) -> Path:
    """Gemma 3: tokens of a picture see each other, windows, blank lines around pictures."""
    words = tokenizer(
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>"
    )
    ids = words.convert_tokens_to_ids
    config = Gemma3Config(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_use_head": False,
        },
        text_config={"vocab_size": len(words), "head_dim": 8, "pad_token_id": 0} | TEXT,
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_id=ids("<image_soft_token>"),
    )
    pictures = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    own = {"image_seq_length": 4, "processor_class": "Gemma3Processor"}
    kind = Gemma3ForConditionalGeneration
    return _write(kind, config, words, pictures, "<start_of_image>", out, own)


def idefics(out: Path) -> Path:
    """Idefics3: a grid of tiles with row and column tokens, pixel shuffle."""
    return _tiles(Idefics3Config, Idefics3ForConditionalGeneration, out)


def smolvlm(out: Path) -> Path:
    """SmolVLM2 with Idefics3's processor: its own needs num2words, for videos only."""
    return _tiles(SmolVLMConfig, SmolVLMForConditionalGeneration, out)


def _tiles(settings: Any, kind: Any, out: Path) -> Path:
    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    words = tokenizer(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows
    )
    config = settings(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
        },
        text_config={"model_type": "llama", "vocab_size": len(words), "pad_token_id": 0} | TEXT,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
        scale_factor=2,
        tie_word_embeddings=False,
    )
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    own = {"image_seq_len": 4, "processor_class": "Idefics3Processor"}
    return _write(kind, config, words, pictures, "<image>", out, own)


def _write(
    kind: Any,
    config: Any,
    words: Any,
    pictures: Any,
    image: str,
    out: Path,
    own: dict[str, Any] | None = None,
) -> Path:
    import json

    torch.manual_seed(0)
    model = kind(config).eval()
    for parameter in model.parameters():  # far enough from zero that pictures matter
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    for part in (model, words, pictures):
        part.save_pretrained(out)
    (out / "chat_template.jinja").write_text(CHATML.format(image=image))
    if own:
        (out / "processor_config.json").write_text(json.dumps(own))
    return out
