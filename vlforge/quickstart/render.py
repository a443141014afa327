"""Draws a scene as a picture of 64 by 64 pixels."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image

from vlforge.quickstart.letters import word_mask
from vlforge.quickstart.scene import Scene, Thing

SIDE = 64
STRIP = 17
"""Height in pixels of the strip that holds the printed word."""

_INK = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (40, 80, 220),
    "yellow": (240, 220, 40),
    "purple": (150, 60, 190),
    "orange": (250, 140, 20),
    "white": (238, 238, 238),
    "grey": (140, 140, 140),
    "black": (22, 22, 22),
}
_RADII = {"large": 10.2, "small": 6.8}
_LETTER_GAP = 3
"""Font pixels between printed letters: at scale 2 a letter takes 16 pixels."""
_SPREAD = 8
"""Grey levels by which the same colour differs from picture to picture."""

_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def draw_picture(
    scene: Scene, rng: np.random.Generator, *, letter_scale: int = 2, noise: float = 6.0
) -> Image.Image:
    """The scene as an RGB picture.

    Places, shades, the colours of the printed word and the noise come from
    `rng`; what the scene says never changes.
    """
    canvas = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    canvas[:] = _shade(scene.ground, rng)
    top = STRIP if scene.word and scene.word_place == "top" else 0
    height = SIDE - STRIP if scene.word else SIDE
    for thing in scene.things:
        canvas[_thing_mask(thing, top, height, rng)] = _shade(thing.colour, rng)
    if scene.word:
        _print_word(canvas, scene, rng, letter_scale)
    canvas += noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as PNG, by run lengths and Huffman codes: fast, and noise has no repeats."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return out.getvalue()


def _shade(colour: str, rng: np.random.Generator) -> np.ndarray:
    return np.array(_INK[colour]) + rng.uniform(-_SPREAD, _SPREAD, 3)


def _thing_mask(thing: Thing, top: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """[64, 64] bool: the pixels of `thing` in its quarter of the rows from `top` on."""
    radius = _RADII[thing.size] + rng.uniform(-0.5, 0.5)
    slack_x, slack_y = SIDE / 4 - radius - 0.5, height / 4 - radius - 0.5
    x = SIDE / 4 * (3 if "right" in thing.place else 1) + rng.uniform(-slack_x, slack_x)
    y = top + height / 4 * (3 if "bottom" in thing.place else 1) + rng.uniform(-slack_y, slack_y)
    dx, dy = _X + 0.5 - x, _Y + 0.5 - y
    if thing.shape == "ring":
        return (dx**2 + dy**2 <= radius**2) & (dx**2 + dy**2 >= (radius * 0.5) ** 2)
    if thing.shape == "square":
        return np.maximum(abs(dx), abs(dy)) <= radius * 0.9
    if thing.shape == "triangle":
        return (dy <= radius * 0.9) & (abs(dx) * 1.8 <= dy + radius * 0.9)
    thin, long = np.minimum(abs(dx), abs(dy)), np.maximum(abs(dx), abs(dy))
    return (thin <= radius * 0.33) & (long <= radius)


def _print_word(
    canvas: np.ndarray, scene: Scene, rng: np.random.Generator, letter_scale: int
) -> None:
    """Print the scene's word on its strip, dark on light."""
    mask = word_mask(scene.word or "", letter_scale, _LETTER_GAP)
    height, width = mask.shape
    pitch = (5 + _LETTER_GAP) * letter_scale
    free = (SIDE - width) // pitch
    left = pitch * rng.integers(0, free + 1) + rng.integers(1, SIDE - width - pitch * free)
    down = rng.integers(1, STRIP - height) if STRIP - height > 1 else 1
    strip = canvas[:STRIP] if scene.word_place == "top" else canvas[SIDE - STRIP :]
    strip[:] = rng.uniform(170, 255, 3)
    strip[down : down + height, left : left + width][mask] = rng.uniform(0, 90, 3)
