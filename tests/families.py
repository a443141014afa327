"""One tiny model of every family with tokenizer, pictures and template, as folders and loaded."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests import tiny_qwen
from tests.inference.tiny import picture, tiny_folder, tiny_tokenizer
from tests.models import plain_minigpt4, tiny_native
from tests.tiny_mgm import mgm
from tests.tiny_model import CLIP, llama_config, llava
from vlforge.inference.load import Loaded, load_model
from vlforge.models.folder import ModelFolder, read_folder, write_folder
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.types import Sample, Turn

TEXT = {"vocab_size": 18, "max_position_embeddings": 400}
TILES = {
    "image_aspect_ratio": "anyres",
    "patch_merge": "spatial_unpad",
    "image_grid_pinpoints": [[8, 16], [16, 8], [16, 16]],
}
FAMILIES = ("llava", "llava_tiles", "mgm", "mgm_hd", "minigpt4", "qwen_vl")
NATIVE = ("qwen2_5_vl", "onevision", "idefics3")
SIZES = ((20, 14), (12, 24), (30, 30), (9, 16))
"""Of the pictures that samples show, (width, height)."""


def made(name: str, width: int = 16) -> ModelFolder:
    """A family's model with random weights, wide enough that pictures change answers.

    Args:
        width: of the language model.
    """
    if name == "qwen_vl":
        sizes = {
            "initializer_range": 4.8 / width,
            "hidden_size": width,
            "kv_channels": width // 2,
            "intermediate_size": 4 * width,
        }
        return replace(tiny_qwen.folder(), model=tiny_qwen.model(**sizes))
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "initializer_range": 8 / width}
    text = TEXT | sizes
    hd = {"image_grid": 2, "image_global": True}
    kinds = {
        "llava": lambda: (llava("clip", text=text), 8),
        "llava_tiles": lambda: (llava("clip", text=text, **TILES), 8),
        "mgm": lambda: (mgm(text_config=llama_config(**text)), 64),
        "mgm_hd": lambda: (mgm(text_config=llama_config(**text), **hd), 64),
        "minigpt4": lambda: (plain_minigpt4.tiny(**text), 28),
    }
    model, side = kinds[name]()
    with torch.no_grad():
        for parameter in model.connector.parameters():
            parameter.mul_(3)
    fit = model.config.image_aspect_ratio
    processor = model.adapt_processor(ImageProcessor(size=side, fit_mode=fit))
    template = "minigpt4_chat" if name == "minigpt4" else "v1_short"
    return ModelFolder(model, tiny_tokenizer(), processor, template)


@cache
def written(name: str, width: int = 16) -> Path:
    """The model's folder; the same one for every test, so leave it as it is."""
    out = Path(tempfile.mkdtemp(prefix=f"vlforge-{name}-"))
    if name in NATIVE:
        makers = {
            "qwen2_5_vl": tiny_native.qwen,
            "onevision": tiny_native.onevision,
            "idefics3": tiny_native.idefics,
        }
        return makers[name](out)
    write_folder(made(name, width), out)
    return out


def loaded(name: str, **how: Any) -> Loaded:
    """The model as chat and evaluation open it, on the CPU."""
    return load_model(written(name), "cpu", **how)


def folder(name: str) -> ModelFolder:
    """The model as training opens it."""
    return read_folder(written(name))


@cache
def picture_file(number: int) -> str:
    """A picture of noise; its shape goes round `SIZES`."""
    path = Path(tempfile.mkdtemp(prefix="vlforge-pictures-")) / f"{number}.png"
    width, height = SIZES[number % len(SIZES)]
    picture(number, (3 * width, 3 * height)).save(path)
    return str(path)


def samples() -> list[Sample]:
    """Questions of unequal lengths: with one picture, with two, with none, in two rounds."""
    asked = [
        ("<image>\nwhat is the cat", (0,)),
        ("is the horse on grass", ()),
        ("<image>\n<image>\nred", (1, 2)),
        ("<image>\nthe red cat sits on the blue horse what is the cat on", (3,)),
        ("what", ()),
        ("<image>\nblue", (0,)),
    ]
    rows = [
        Sample(str(number), tuple(map(picture_file, pictures)), (Turn("user", text),))
        for number, (text, pictures) in enumerate(asked)
    ]
    talk = (
        Turn("user", "<image>\nwhat is the cat"),
        Turn("assistant", "a horse"),
        Turn("user", "on what"),
    )
    return [*rows, Sample("talk", (picture_file(2),), talk)]


def batch(name: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """Ids [3, T] with -200 for pictures (the second row has none), and what `forward` takes."""
    model = folder(name).model
    torch.manual_seed(1)
    ids = torch.tensor([[1, 5, -200, 7, 8], [6, 9, 4, 0, 0], [3, -200, 4, 11, 0]])
    sizes = [(16, 16), (8, 16)]
    tiles = model.tiling.tiles if getattr(model, "tiling", None) else lambda size: 1
    side = model.image_size
    more = {
        "pixels": torch.randn(sum(map(tiles, sizes)), 3, side, side),
        "attention_mask": torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] * 4 + [0]]),
    }
    return ids, more | ({"sizes": sizes} if model.needs_sizes else {})


__all__ = ["CLIP", "FAMILIES", "NATIVE", "batch", "folder", "loaded", "made", "samples",
           "tiny_folder", "written"]  # fmt: skip
