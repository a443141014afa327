"""Samples a second of every kind of training stage, at the quickstart's sizes, as JSON.

    python benchmarks/training.py [--samples 1600] [--threads 1] [--out training.json]

Pictures of 64 pixels with captions of about 20 words and questions, made here.
Seconds are those of the optimiser loop (reading and encoding apart), both as
they passed and as this process computed: on a busy machine the second says more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vlforge.models.config import ModelSpec
from vlforge.training import loop, pretrain
from vlforge.training.config import Optimiser, PretrainConfig, TokenizerConfig, TrainConfig
from vlforge.training.tokenizer import train_tokenizer

WORDS = [a + b for a in "bdfghklmnprst" for b in ("ack", "ell", "ing", "ote", "ump")]
OPTIMISER = Optimiser(lr=1.5e-3, betas=(0.9, 0.98), warmup_ratio=0.2)


def make_data(folder: Path, rows: int = 400) -> None:
    """Captions, conversations of four questions, and texts, over random pictures."""
    draw, pixels = random.Random(0), np.random.default_rng(0)
    (folder / "images").mkdir()
    captions, questions, texts = [], [], []
    for number in range(rows):
        name = f"images/{number}.png"
        picture = pixels.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / name)
        caption = " ".join(draw.choices(WORDS, k=20)) + "."
        turns = []
        for _ in range(4):
            turns.append(("human", " ".join(draw.choices(WORDS, k=8)) + "?"))
            turns.append(("gpt", draw.choice(WORDS)))
        turns[0] = ("human", "<image>\n" + turns[0][1])
        captions.append(_row(name, [("human", "<image>"), ("gpt", caption)]))
        questions.append(_row(name, turns))
        texts.append({"text": caption + " " + " ".join(draw.choices(WORDS, k=60))})
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "questions.json").write_text(json.dumps(questions))
    (folder / "text.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))


def _row(image: str, turns: list[tuple[str, str]]) -> dict:
    conversations = [{"from": who, "value": text} for who, text in turns]
    return {"id": image, "image": image, "conversations": conversations}


def stages(folder: Path, samples: int) -> dict[str, Callable[[Path], dict]]:
    """What is measured, each a function of its output folder, in order."""
    tokenizer, encoder, decoder = (str(folder / name) for name in ("words", "encoder", "decoder"))
    tags = PretrainConfig(
        objective="tags",
        data=str(folder / "captions.json"),
        tokenizer=tokenizer,
        samples=samples,
        optimiser=OPTIMISER,
        augment=True,
    )
    text = replace(tags, objective="text", data=str(folder / "text.jsonl"), augment=False)
    align = TrainConfig(
        model=ModelSpec(vision=encoder, language=decoder),
        data=str(folder / "captions.json"),
        samples=samples,
        train=("connector", "language"),
        optimiser=OPTIMISER,
    )
    parts = ("vision", "connector", "language")
    questions = {"data": str(folder / "questions.json"), "template": "vicuna"}
    return {
        "encoder": lambda out: pretrain.pretrain(tags, out, device="cpu"),
        "decoder": lambda out: pretrain.pretrain(text, out, device="cpu"),
        "align": lambda out: loop.train(align, out, device="cpu"),
        "align_with_vision": lambda out: loop.train(
            replace(align, train=parts, augment=True), out, device="cpu"
        ),
        "instruct": lambda out: loop.train(replace(align, **questions), out, device="cpu"),
    }


def measure(samples: int, threads: int) -> dict[str, object]:
    """Per stage: samples a second, passed and computed, and tokens of a sample."""
    torch.set_num_threads(threads)
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        words = TokenizerConfig(data=(str(folder / "text.jsonl"),), extra_words=("USER",))
        train_tokenizer(words, folder / "words")
        for stage, run in stages(folder, samples).items():
            start = time.process_time()
            summary = run(folder / stage)
            computed = time.process_time() - start
            timing = json.loads((folder / stage / "timing.json").read_text())
            results[stage] = {
                "samples_per_second": timing["samples_per_second"],
                "samples_per_cpu_second": round(samples / computed, 1),
                "tokens_per_sample": round(summary["tokens"] / samples, 1),
                "peak_mb": timing["peak_mb"],
            }
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(
        {
            "stages": measure(options.samples, options.threads),
            "samples": options.samples,
            "threads": options.threads,
            "torch": torch.__version__,
            "load": round(os.getloadavg()[0], 2),
        },
        indent=2,
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
