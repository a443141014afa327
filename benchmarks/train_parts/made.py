"""Files for a case: pictures, a LLaVA file over them, and a model folder with random weights."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from model_parts.cases import build
from PIL import Image

from vlforge.models.folder import ModelFolder, write_folder
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.reading import read_tokenizer
from vlforge.training.config import TokenizerConfig
from vlforge.training.tokenizer import train_tokenizer

from .cases import TrainCase

WORDS = [a + b for a in "bdfghklmnprst" for b in ("ack", "ell", "ing", "ote", "ump")]
MARKS = ("<start_of_turn>user", "<start_of_turn>model", "<end_of_turn>", "<eos>", "<Img>", "</Img>")
"""Pieces of the templates that are one token each."""
DATA, MODEL = "data.json", "model"


def make(case: TrainCase, folder: Path) -> None:
    """Everything that both loops read, into `folder`."""
    write_data(case, folder)
    write_folder(model_of(case, folder), folder / MODEL)


def model_of(case: TrainCase, folder: Path, device: str = "cpu") -> ModelFolder:
    """A model with random fp32 weights, made on its device, and a tokenizer for the rows."""
    train_tokenizer(TokenizerConfig((str(folder / DATA),), extra_words=MARKS), folder / "words")
    config = dict(case.config)
    if case.fit != "stretch":
        config["image_aspect_ratio"] = case.fit
    model = build(config, device, torch.float32)
    side = model.image_size
    processor = ImageProcessor(side, case.fit, side)
    return ModelFolder(model, read_tokenizer(folder / "words", "auto"), processor)


def write_data(case: TrainCase, folder: Path) -> None:
    """`data.json` and its pictures; which rows have none is drawn."""
    draw, pixels = random.Random(0), np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, words in enumerate(case.words()):
        has_picture = draw.random() >= case.texts
        row = {"id": str(number), "conversations": _turns(case, words, has_picture, draw)}
        if has_picture:
            row["image"] = f"images/{number % (case.files or case.rows)}.jpg"
            if not (folder / row["image"]).exists():
                _picture(case.size, pixels).save(folder / row["image"], quality=90)
        rows.append(row)
    (folder / DATA).write_text(json.dumps(rows))


def _turns(
    case: TrainCase, words: int, has_picture: bool, draw: random.Random
) -> list[dict[str, str]]:
    """One round of a caption, or rounds of a question and an answer."""
    turns: list[dict[str, str]] = []
    left = words
    while left > 0:
        count = left if case.kind != "answers" or left < case.answer + 2 else case.answer
        left -= count
        asked = " ".join(draw.choices(WORDS, k=2)) + "?"
        question = "<image>" if case.kind == "captions" else asked
        if has_picture and not turns and case.kind != "captions":
            question = f"<image>\n{asked}"
        turns.append({"from": "human", "value": question})
        turns.append({"from": "gpt", "value": " ".join(draw.choices(WORDS, k=count))})
    return turns


def _picture(size: tuple[int, int], pixels: np.random.Generator) -> Image.Image:
    """Soft shapes under a little noise: a file of about the size that a photograph has."""
    width, height = size
    coarse = pixels.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=int)
    noise = pixels.integers(-12, 13, (height, width, 1))
    return Image.fromarray(np.clip(soft + noise, 0, 255).astype(np.uint8))


def smaller(case: TrainCase, steps: int, batch: int) -> TrainCase:
    """The case with so many steps of so many rows, where it has more."""
    return replace(case, steps=min(case.steps, steps), batch=min(case.batch, batch))
