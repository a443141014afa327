"""A random LLaVA of half a million weights with a word tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from vlforge.models.folder import ModelFolder, write_folder
from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.parts.image_processor import small_processor
from vlforge.models.parts.small_vision import SmallVisionConfig

SIDE, WIDTH, LAYERS = 64, 96, 4
WORDS = ["w" + str(number) for number in range(508)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Words apart by spaces."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    vocabulary = {word: place for place, word in enumerate(names)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def write_model(out: Path) -> Path:
    """The model's folder; wide weights keep its choices far apart."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    vision = SmallVisionConfig(image_size=SIDE, channels=[16, 32], merge=4)
    model = LlavaModel(LlavaConfig(vision_config=vision, text_config=text)).eval()
    with torch.no_grad():
        for parameter in model.connector.parameters():
            parameter.mul_(4)  # so that pictures change answers
    write_folder(ModelFolder(model, tokenizer(), small_processor(SIDE), "v1"), out)
    return out
