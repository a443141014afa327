"""Made jpegs that weigh and decode like photographs; the n-th is always the same.

A photograph is smooth light, some shapes with soft edges, texture and sensor
noise. Each picture draws a wanted size in bytes (log-normal, mean about 24 KB)
and its noise is set so that it comes near; the mean of a set lies within 10 %.
"""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .captions import row

MEAN_BYTES = 24_000
_SIZES = ((400, 300), (300, 400), (400, 267), (400, 300), (267, 400), (400, 400), (448, 336))
_ODD_SIZES = ((900, 110), (120, 720), (64, 48), (1000, 90), (50, 40))
_EXACT, _NEAR, _ODD = 0.04, 0.03, 0.02
"""Shares of exact repeats, near repeats, and outliers of shape or size."""


def picture(number: int) -> bytes:
    """Jpeg `number`: its own, or a repeat (exact, re-encoded or shrunk) of an earlier one."""
    pick = np.random.default_rng([number, 1])
    kind = pick.random()
    if number > 20 and kind < _EXACT:
        return picture(int(pick.integers(number)))
    if number > 20 and kind < _EXACT + _NEAR:
        return _again(picture(int(pick.integers(number))), pick)
    return _own(number, is_odd=kind > 1 - _ODD)


def _again(content: bytes, pick: np.random.Generator) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        if pick.random() < 0.5 and min(image.size) > 100:
            image = image.resize((image.width * 9 // 10, image.height * 9 // 10), 3)
        return _jpeg(image, int(pick.integers(60, 76)))


def _own(number: int, *, is_odd: bool) -> bytes:
    pick = np.random.default_rng([number, 0])
    sizes = _ODD_SIZES if is_odd else _SIZES
    width, height = sizes[int(pick.integers(len(sizes)))]
    clean = _scene(pick, width, height)
    grain = pick.standard_normal((height, width, 1), dtype=np.float32)
    wanted = float(np.clip(pick.lognormal(np.log(MEAN_BYTES) - 0.08, 0.4), 5_000, 90_000))
    # Two steps of the secant on noise against bytes come near enough.
    noise, content = 6.0, b""
    for _ in range(3):
        shot = np.clip(clean + noise * grain, 0, 255).astype(np.uint8)
        content = _jpeg(Image.fromarray(shot), 85)
        noise = float(np.clip(noise * (wanted / len(content)) ** 1.3, 0.3, 45))
    return content


def _scene(pick: np.random.Generator, width: int, height: int) -> Any:
    """[height, width, 3] float32: light, shapes and texture, without noise."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    sky, ground = pick.uniform(30, 225, (2, 3)).astype(np.float32)
    horizon = _soft(y - pick.uniform(0.2, 0.8) - 0.1 * np.sin(x * pick.uniform(2, 9)), 0.02)
    canvas = sky * (1 - horizon[..., None]) + ground * horizon[..., None]
    canvas += _texture(pick, width, height, cells=6, strength=35)
    for _ in range(int(pick.integers(3, 9))):
        mask = _shape(pick, x, y)[..., None]
        colour = pick.uniform(0, 255, 3).astype(np.float32)
        shade = colour * (1.1 - 0.4 * y[..., None])
        canvas += mask * (shade - canvas)
    canvas += _texture(pick, width, height, cells=48, strength=14)
    return canvas


def _shape(pick: np.random.Generator, x: Any, y: Any) -> Any:
    """[H, W] 0..1: an ellipse or a box, turned, with a soft edge."""
    turn = pick.uniform(0, np.pi)
    dx, dy = x - pick.uniform(0, 1), y - pick.uniform(0, 1)
    a, b = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    a, b = a / pick.uniform(0.05, 0.3), b / pick.uniform(0.05, 0.3)
    far = np.hypot(a, b) if pick.random() < 0.6 else np.maximum(np.abs(a), np.abs(b))
    return _soft(1 - far, float(pick.uniform(0.01, 0.08)))


def _soft(distance: Any, width: float) -> Any:
    return np.clip(0.5 + distance / (2 * width), 0, 1, dtype=np.float32)


def _texture(pick: np.random.Generator, width: int, height: int, cells: int, strength: int) -> Any:
    """[H, W, 1] float32: smooth noise of `cells` spots across."""
    spots = pick.integers(0, 256, (cells, cells), dtype=np.uint8)
    grown = Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC)
    return (np.asarray(grown, dtype=np.float32)[..., None] - 127) * (strength / 127)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _write_share(folder: Path, numbers: range) -> int:
    for number in numbers:
        (folder / f"{number:06d}.jpg").write_bytes(picture(number))
    return len(numbers)


def make_dataset(folder: Path, rows: int) -> Path:
    """`rows` rows with a jpeg each (one in a hundred with two) in `folder`; gives the file.

    Made once: a finished file is taken as it is.
    """
    path = folder / f"rows_{rows}.jsonl"
    if path.exists():
        return path
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    there = sum(1 for _ in images.iterdir())
    missing = range(there if there < rows else rows, rows)
    ways = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(ways) as pool:
        shares = [missing[start::ways] for start in range(ways)]
        list(pool.map(_write_share, [images] * ways, shares))
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for number in range(rows):
            shown = [number, number - 1] if number % 100 == 50 else [number]
            made = row(number, [f"images/{n:06d}.jpg" for n in shown])
            file.write(json.dumps(made, ensure_ascii=False) + "\n")
    part.replace(path)
    return path


def mean_bytes(folder: Path) -> float:
    """Mean size of the jpegs; all are read, so that no tool finds them colder than the other."""
    sizes = [len(path.read_bytes()) for path in (folder / "images").iterdir()]
    return sum(sizes) / len(sizes)
