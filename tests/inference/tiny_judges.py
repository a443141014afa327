"""Random models that judge, a few thousand weights each, saved in the layouts users have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.inference.tiny import tiny_tokenizer

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WORDS = {"vocab_size": 18, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}


def saved(out: Path, model: Any, processor: Any = None, has_words: bool = True) -> Path:
    """The folder with weights twice as wide as usual, so that answers differ clearly."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    model.eval().save_pretrained(out)
    if processor is not None:
        processor.save_pretrained(out)
    if has_words:
        tiny_tokenizer().save_pretrained(out)
    return out


def square(side: int = 16, **how: Any) -> Any:
    """CLIP's processor for small squares."""
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **how
    )


def tiny_clip(out: Path, seed: int = 0) -> Path:
    """CLIP with 12 positions of text, pictures of 16 pixels, embeddings of width 8."""
    torch.manual_seed(seed)
    text = {**SIZES, **WORDS, "max_position_embeddings": 12}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    return saved(out, transformers.CLIPModel(config), square())


def tiny_chinese_clip(out: Path) -> Path:
    """Chinese-CLIP: BERT beside the vision tower."""
    torch.manual_seed(0)
    text = {**SIZES, **WORDS, "max_position_embeddings": 12}
    config = transformers.ChineseCLIPConfig(
        text_config=text, vision_config=VISION, projection_dim=8
    )
    processor = transformers.ChineseCLIPImageProcessorPil(
        size={"height": 16, "width": 16}, do_center_crop=False
    )
    return saved(out, transformers.ChineseCLIPModel(config), processor)


def tiny_siglip(out: Path) -> Path:
    """SigLIP with a fixed size of pictures."""
    torch.manual_seed(0)
    text = {**SIZES, **WORDS, "max_position_embeddings": 10}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    processor = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    model = transformers.SiglipModel(config)
    torch.nn.init.constant_(model.logit_scale, 1.5)
    torch.nn.init.constant_(model.logit_bias, -3.0)
    return saved(out, model, processor)


def tiny_siglip2(out: Path) -> Path:
    """SigLIP 2 with pictures in shapes of their own, 9 patches at most."""
    torch.manual_seed(0)
    text = {**SIZES, **WORDS, "max_position_embeddings": 10}
    vision = {**SIZES, "num_patches": 9, "patch_size": 8}
    config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=9)
    return saved(out, transformers.Siglip2Model(config), processor)


def tiny_matching(out: Path) -> Path:
    """BLIP with the matching head."""
    torch.manual_seed(0)
    text = {**SIZES, **WORDS, "max_position_embeddings": 12, "encoder_hidden_size": 16}
    config = transformers.BlipConfig(
        text_config=text, vision_config=VISION, projection_dim=8, image_text_hidden_size=8
    )
    processor = transformers.BlipImageProcessorPil(size={"height": 16, "width": 16})
    return saved(out, transformers.BlipForImageTextRetrieval(config), processor)


def tiny_vit(out: Path, labels: tuple[str, ...] = ("normal", "nsfw")) -> Path:
    """A ViT that classifies pictures."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(**VISION, id2label=dict(enumerate(labels)))
    processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16})
    return saved(out, transformers.ViTForImageClassification(config), processor, False)


def tiny_convnext(out: Path) -> Path:
    """A ConvNeXt that classifies pictures."""
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(
        num_stages=2,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        image_size=32,
        id2label={0: "clean", 1: "watermark"},
    )
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32})
    return saved(out, transformers.ConvNextForImageClassification(config), processor, False)


def tiny_bert(out: Path, **more: Any) -> Path:
    """A BERT that classifies texts."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **SIZES, vocab_size=18, max_position_embeddings=12, pad_token_id=0, **more
    )
    return saved(out, transformers.BertForSequenceClassification(config))


def tiny_owl(out: Path, name: str = "owlvit") -> Path:
    """OWL-ViT or OWLv2 with 16 boxes per picture and phrases of 6 tokens."""
    torch.manual_seed(0)
    text = {**SIZES, **WORDS, "max_position_embeddings": 6}
    vision = {**VISION, "image_size": 32}
    kind = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[name]
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision, projection_dim=16
    )
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(size={"height": 32, "width": 32})
    return saved(out, getattr(transformers, f"{kind}ForObjectDetection")(config), processor)


def tiny_dinov2(out: Path) -> Path:
    """DINOv2: pictures are resized to 20 pixels, of which the middle 16 are seen."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**VISION)
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}
    )
    return saved(out, transformers.Dinov2Model(config), processor, False)


def tiny_siglip_vision(out: Path) -> Path:
    """The vision part of SigLIP."""
    torch.manual_seed(0)
    processor = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    config = transformers.SiglipVisionConfig(**VISION)
    return saved(out, transformers.SiglipVisionModel(config), processor, False)
