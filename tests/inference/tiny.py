"""A random Llama, a word tokenizer and a model folder, small enough to build in every test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vlforge.models.folder import ModelFolder, write_folder
from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.parts.image_processor import small_processor
from vlforge.models.parts.small_vision import SmallVisionConfig

WORDS = ["a", "the", "red", "blue", "cat", "horse", "on", "grass"]
WORDS += ["stands", "sits", ".", "\n", "is", "what"]


def tiny_language(seed: int = 0, vocab: int = 18, positions: int = 64) -> LlamaForCausalLM:
    """Two layers of width 16, weights wide enough that its logits differ clearly."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """`<pad> <s> </s> <unk>` and fourteen words, split at spaces."""
    vocab = {word: place for place, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def prompts(language: LlamaForCausalLM, lengths: list[int], seed: int = 1) -> list[torch.Tensor]:
    """One random prompt of input embeddings per length."""
    generator = torch.Generator().manual_seed(seed)
    width = language.config.hidden_size
    return [torch.randn(length, width, generator=generator) for length in lengths]


def tiny_folder(out: Path, template: str = "plain", positions: int = 96, seed: int = 0) -> Path:
    """A model folder: 16-pixel pictures as 8 tokens, the random Llama, words as tokens."""
    torch.manual_seed(seed)
    vision = SmallVisionConfig(image_size=16, channels=[8, 12], merge=2)
    language = tiny_language(seed, positions=positions)
    model = LlavaModel(LlavaConfig(vision_config=vision, text_config=language.config))
    model.language = language
    for parameter in model.connector.parameters():
        parameter.data *= 4  # so that pictures change answers
    write_folder(ModelFolder(model, tiny_tokenizer(), small_processor(16), template), out)
    return out


def picture(number: int, size: tuple[int, int] = (20, 14)) -> Image.Image:
    """A picture of noise that depends on its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)
