"""LLaVA-1.5's training data in small, as its own code and XTuner lay them out."""

from __future__ import annotations

from pathlib import Path

from vlforge.miniatures.pictures import write_picture
from vlforge.miniatures.rows import captioned, mixed
from vlforge.miniatures.scenes import scene
from vlforge.miniatures.weights import write_json

PRETRAIN_NAME, MIX_NAME = "blip_laion_cc_sbu_558k.json", "llava_v1_5_mix665k.json"
FIRST_MIXED = 50_000
PLACES = (
    "coco/train2017/{n:012d}.jpg",
    "gqa/images/{n}.jpg",
    "ocr_vqa/images/{n:010d}.jpg",
    "textvqa/train_images/{n:016x}.jpg",
    "vg/VG_100K/{n}.jpg",
    "vg/VG_100K_2/{n}.jpg",
)
"""The mixture's pictures; OCR-VQA's all end in .jpg, as its users have to see to."""


def write_pretrain(folder: Path, seed: int, count: int) -> None:
    """LLaVA-Pretrain: captions and `images/`, from which the pictures' paths start."""
    rows = []
    for number in range(count):
        one, name = scene(seed, number), f"{number * 4513:09d}"
        image = f"{name[:5]}/{name}.jpg"
        write_picture(folder / "images" / image, one)
        rows.append(captioned(one, name, image))
    write_json(folder / PRETRAIN_NAME, rows)


def write_mix(file: Path, images: Path, seed: int, count: int) -> None:
    """The instruction mixture with its folders of pictures, and rows of text alone."""
    write_json(
        file, mixed(images, seed, PLACES, count, first=FIRST_MIXED, texts=max(4, count // 6))
    )
