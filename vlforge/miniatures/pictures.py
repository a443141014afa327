"""Draws scenes: small pictures that look a little like photographs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from vlforge.miniatures.scenes import COLOURS, PLACES, Scene

Size = tuple[int, int]
SIZES: tuple[Size, ...] = ((112, 84), (84, 112), (96, 96), (128, 72))
"""Landscape, portrait, square, wide; pictures take them in turn."""
GREY_EVERY = 9
"""Of so many pictures one is grey, as on the web."""


def draw(scene: Scene, size: Size | None = None, mode: Literal["auto", "RGB", "L"] = "auto"):
    """The scene as a picture; size and mode by its number where they are not given."""
    width, height = size or SIZES[scene.number % len(SIZES)]
    picture = _background(scene, (width, height))
    pen = ImageDraw.Draw(picture)
    side = min(width, height) * (0.5 if len(scene.things) == 1 else 0.36)
    for place, thing in enumerate(scene.things):
        middle = width * (place + 1) / (len(scene.things) + 1)
        box = (middle - side / 2, height * 0.9 - side, middle + side / 2, height * 0.9)
        _draw_thing(pen, thing.shape, box, COLOURS[thing.colour][0])
    if scene.word:
        _draw_word(pen, scene.word, width, height)
    if mode == "L" or (mode == "auto" and scene.number % GREY_EVERY == GREY_EVERY - 1):
        return picture.convert("L")
    return picture


def write_picture(
    path: Path, scene: Scene, size: Size | None = None, mode: Literal["auto", "RGB", "L"] = "auto"
) -> Path:
    """Draw into a file, whose ending says the format; folders are made on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"quality": 90} if path.suffix in (".jpg", ".jpeg") else {}
    draw(scene, size, mode).save(path, **how)
    return path


def _background(scene: Scene, size: Size) -> Image.Image:
    """Two tones that meet at a horizon, with the grain of a sensor."""
    rng = random.Random(f"{scene.seed}/{scene.number}/pixels")
    upper, lower, _ = PLACES[scene.place]
    width, height = size
    horizon = int(height * rng.uniform(0.45, 0.65))
    picture = Image.new("RGB", size, upper)
    picture.paste(lower, (0, horizon, width, height))
    shade = Image.linear_gradient("L").resize(size).point(lambda value: 190 + value // 4)
    dark = Image.composite(picture, Image.new("RGB", size), shade)
    grain = Image.frombytes("L", size, rng.randbytes(width * height)).convert("RGB")
    return Image.blend(dark, grain, 0.07)


def _draw_thing(
    pen: ImageDraw.ImageDraw,
    shape: str,
    box: tuple[float, float, float, float],
    colour: tuple[int, int, int],
) -> None:
    left, top, right, bottom = box
    edge = tuple(int(part * 0.6) for part in colour)
    if shape == "ball":
        pen.ellipse(box, fill=colour, outline=edge)
    elif shape == "box":
        pen.rectangle(box, fill=colour, outline=edge)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=max(3, int((right - left) / 5)))
    else:
        pen.polygon([(left, bottom), ((left + right) / 2, top), (right, bottom)], fill=colour)


def _draw_word(pen: ImageDraw.ImageDraw, word: str, width: int, height: int) -> None:
    font = ImageFont.load_default(max(10, height // 7))
    left, _, right, bottom = pen.textbbox((0, 0), word, font=font)
    at = ((width - right + left) / 2, height * 0.04)
    pen.rectangle(
        (at[0] - 3, at[1] - 1, at[0] + right + 3, at[1] + bottom + 2), fill=(250, 250, 250)
    )
    pen.text(at, word, font=font, fill=(20, 20, 20))
