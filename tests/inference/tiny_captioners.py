"""Captioners of transformers with random weights, saved as users have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.inference.test_native import SMALL, widen
from tests.inference.tiny import tiny_tokenizer

VISION = {**SMALL, "image_size": 16, "patch_size": 8}
SIDES = {"height": 16, "width": 16}
OPT: dict[str, Any] = {
    "model_type": "opt",
    "vocab_size": 20,
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 200,
    "word_embed_proj_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 20,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "decoder_start_token_id": 0,
}


def with_ends() -> PreTrainedTokenizerFast:
    """The word tokenizer, putting `<s>` and `</s>` around a text as BERT's does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def blip2(out: Path, text: dict[str, Any] = OPT, is_old: bool = False) -> Path:
    """BLIP-2; `is_old` as folders were before they told of the picture's tokens."""
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**SMALL, "encoder_hidden_size": 16, "vocab_size": 20},
        text_config=text,
        num_query_tokens=3,
        image_token_index=18,
    )
    widen(Blip2ForConditionalGeneration(config)).save_pretrained(out)
    images = BlipImageProcessorPil(size=SIDES)
    if not is_old:
        Blip2Processor(images, tiny_tokenizer(), num_query_tokens=3).save_pretrained(out)
        return out
    images.save_pretrained(out)
    tiny_tokenizer().save_pretrained(out)
    for name, lost in (("config", ("image_token_index",)), ("preprocessor_config", ())):
        fields = json.loads((out / f"{name}.json").read_text())
        kept = {key: value for key, value in fields.items() if key not in lost}
        told = {"processor_class": "Blip2Processor"} if name == "preprocessor_config" else {}
        (out / f"{name}.json").write_text(json.dumps(kept | told))
    return out


def blip(out: Path) -> Path:
    """BLIP, which closes a text and goes on before its end."""
    torch.manual_seed(0)
    text = {
        **SMALL,
        "vocab_size": 18,
        "bos_token_id": 1,
        "sep_token_id": 2,
        "eos_token_id": 5,
        "pad_token_id": 0,
        "encoder_hidden_size": 16,
        "max_position_embeddings": 150,
    }
    config = BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=16)
    widen(BlipForConditionalGeneration(config)).save_pretrained(out)
    BlipProcessor(BlipImageProcessorPil(size=SIDES), with_ends()).save_pretrained(out)
    return out


def git(out: Path) -> Path:
    """GIT, which writes behind the picture's tokens."""
    torch.manual_seed(0)
    config = GitConfig(
        vision_config=VISION,
        **SMALL,
        vocab_size=18,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        max_position_embeddings=150,
    )
    widen(GitForCausalLM(config)).save_pretrained(out)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIDES)
    GitProcessor(images, with_ends()).save_pretrained(out)
    return out


def encoder_decoder(out: Path) -> Path:
    """A ViT that a GPT-2 reads; the folder holds image processor and tokenizer apart."""
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    encoder = ViTConfig(**VISION)
    decoder = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=18, n_positions=150, **ends)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = widen(VisionEncoderDecoderModel(config))
    for name, value in (("decoder_start_token_id", 1), *ends.items()):
        setattr(model.generation_config, name, value)
        setattr(model.config, name, value)
    model.save_pretrained(out)
    ViTImageProcessorPil(size=SIDES).save_pretrained(out)
    tiny_tokenizer().save_pretrained(out)
    return out
