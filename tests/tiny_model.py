"""Models of a few thousand weights and data of a few pictures, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM

from vlforge.models.config import SmallVisionSpec
from vlforge.models.folder import ModelFolder, assemble
from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.parts.image_processor import small_processor
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.training.config import TokenizerConfig
from vlforge.training.tokenizer import train_tokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
SPEC = SmallVisionSpec(image_size=16, channels=(8, 16), merge=2)
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def llama_config(vocabulary: int = 40, **changes) -> LlamaConfig:
    """A Llama of width 16."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.1,
    }
    return LlamaConfig(**(sizes | changes))


def llava(vision: str = "small", seed: int = 0, **changes) -> LlavaModel:
    """A model with random weights; 8 tokens a picture (small) or 4 (clip)."""
    torch.manual_seed(seed)
    towers = {"small": lambda: SmallVisionConfig.of(SPEC), "clip": lambda: CLIPVisionConfig(**CLIP)}
    text = llama_config(**changes.pop("text", {}))
    config = LlavaConfig(vision_config=towers[vision](), text_config=text, **changes)
    return LlavaModel(config).eval()


def write_data(folder: Path, rows: int = 12) -> Path:
    """Pictures of one colour and their captions, as a LLaVA file; returns its path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    data = []
    for number in range(rows):
        name = list(COLOURS)[number % len(COLOURS)]
        Image.new("RGB", (16, 16), COLOURS[name]).save(folder / f"images/{number}.png")
        turns = [("human", "<image>\nWhat colour is it?"), ("gpt", f"It is {name}.")]
        data.append(
            {
                "id": str(number),
                "image": f"images/{number}.png",
                "conversations": [{"from": who, "value": text} for who, text in turns],
            }
        )
    path = folder / "data.json"
    path.write_text(json.dumps(data))
    return path


def write_parts(folder: Path, data: Path) -> tuple[Path, Path]:
    """A vision folder and a language folder with a tokenizer for `data`; random weights."""
    torch.manual_seed(0)
    vision, language = folder / "vision", folder / "language"
    SmallVisionModel(SmallVisionConfig.of(SPEC)).save_pretrained(vision)
    config = TokenizerConfig(data=(str(data),), extra_words=("USER", "ASSISTANT"))
    facts = train_tokenizer(config, language)
    LlamaForCausalLM(llama_config(facts["vocabulary"])).save_pretrained(language)
    return vision, language


def folder_of(vision: Path, language: Path) -> ModelFolder:
    """The two folders as one model."""
    from vlforge.models.config import ModelSpec

    torch.manual_seed(0)
    return assemble(ModelSpec(vision=str(vision), language=str(language)))


__all__ = ["folder_of", "llama_config", "llava", "small_processor", "write_data", "write_parts"]
