"""Pillow's Lanczos thumbnails in grey, to the bit, by matrix products.

Pillow shrinks along one axis and then along the other, with weights of 22 bits
and sums of whole numbers. Such sums are exact in double precision too, so a
product of matrices gives the same bytes, and a good deal sooner: each block of
output columns is one small product with the pixels that it covers.

Source: Pillow's Resample.c and Convert.c, whose numbers these are.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_UNIT = 1 << 22
"""What Pillow's weights of one output pixel add up to."""
_LOBES = 3.0
_TOGETHER = 4
"""Output columns per product: more would multiply zeros, fewer would leave the processor idle."""
_SMALL = 256
"""Pixels of a side up to which one product for all columns is the quickest."""
_PIXELS_AT_ONCE = 1 << 17
_ALONE = 1 << 18
"""Multiplications up to which OpenBLAS stays on one thread: the other cores have other pictures."""
_RED, _GREEN, _BLUE = 19595, 38470, 7471
"""Shares of the grey of ITU-R BT.601, in 65536ths."""

_Block = tuple[int, int, int, Any]
"""First output column, first and past-the-last pixel, whole-number weights [pixels, columns]."""


def shrunk_grey(picture: Image | Any, size: tuple[int, int]) -> Any:
    """[height, width] uint8, equal to `image.resize(size, LANCZOS).convert("L")`.

    `picture` is an image, RGB or L, or its pixels [rows, columns, bands] uint8;
    `size` is (width, height).
    """
    width, height = size
    rows, columns, bands = _shape(picture)
    # The sums of the first pass are rounded, so the order of the passes shows.
    if rows - height > max(0, 2 * (columns - width)):
        low = np.empty((height, bands, columns))
        some = max(1, _PIXELS_AT_ONCE // rows)
        for left in range(0, columns, some):
            right = min(left + some, columns)
            flat = _planes(picture, (left, 0, right, rows)).reshape(rows, -1)
            low[:, :, left:right] = _columns_shrunk(flat, height).reshape(height, bands, -1)
        out = _rows_shrunk(low.reshape(-1, columns), width)
    else:
        wide = np.empty((rows, bands * width))
        some = max(1, _PIXELS_AT_ONCE // columns)
        for top in range(0, rows, some):
            bottom = min(top + some, rows)
            flat = _planes(picture, (0, top, columns, bottom)).reshape(-1, columns)
            wide[top:bottom] = _rows_shrunk(flat, width).reshape(bottom - top, -1)
        out = _columns_shrunk(wide, height)
    levels = out.reshape(height, bands, width).astype(np.uint32)
    if bands == 1:
        return levels[:, 0].astype(np.uint8)
    grey = _RED * levels[:, 0] + _GREEN * levels[:, 1] + _BLUE * levels[:, 2]
    return ((grey + 0x8000) >> 16).astype(np.uint8)


def _shape(picture: Image | Any) -> tuple[int, int, int]:
    if isinstance(picture, np.ndarray):
        rows, columns, bands = picture.shape
        return rows, columns, bands
    return picture.height, picture.width, len(picture.getbands())


def _planes(picture: Image | Any, box: tuple[int, int, int, int]) -> Any:
    """[rows, bands, columns] float64 of a part: from left, from top, to right, to bottom."""
    left, top, right, bottom = box
    if isinstance(picture, np.ndarray):
        out = np.empty((bottom - top, picture.shape[2], right - left))
        for band in range(picture.shape[2]):
            out[:, band] = picture[top:bottom, left:right, band]
        return out
    part = picture if box == (0, 0, *picture.size) else picture.crop(box)
    packed = part.tobytes("raw", "RGB;L" if part.mode == "RGB" else "L")
    pixels = np.frombuffer(packed, dtype=np.uint8)
    return pixels.astype(np.float64).reshape(part.height, -1, part.width)


def _rows_shrunk(pixels: Any, width: int) -> Any:
    """[rows, width] whole numbers 0..255, of `pixels` [rows, columns]."""
    out = np.empty((len(pixels), width))
    for at, low, high, weights in _blocks(pixels.shape[1], width):
        columns = slice(at, at + weights.shape[1])
        step = _step(weights)
        for begin in range(0, len(pixels), step):
            cut = slice(begin, begin + step)
            np.matmul(pixels[cut, low:high], weights, out=out[cut, columns])
    return _rounded(out)


def _columns_shrunk(pixels: Any, height: int) -> Any:
    """[height, columns] whole numbers 0..255, of `pixels` [rows, columns]."""
    out = np.empty((height, pixels.shape[1]))
    for at, low, high, weights in _blocks(len(pixels), height):
        rows = slice(at, at + weights.shape[1])
        step = _step(weights)
        for begin in range(0, pixels.shape[1], step):
            cut = slice(begin, begin + step)
            np.matmul(weights.T, pixels[low:high, cut], out=out[rows, cut])
    return _rounded(out)


def _step(weights: Any) -> int:
    return max(1, _ALONE // weights.size)


def _rounded(sums: Any) -> Any:
    """Sums of weighted pixels as pixels, halves up, in place."""
    sums += _UNIT // 2
    sums *= 1 / _UNIT
    np.floor(sums, out=sums)
    return np.clip(sums, 0, 255, out=sums)


@functools.lru_cache(maxsize=512)
def _blocks(source: int, target: int) -> list[_Block]:
    """The weights that shrink `source` pixels to `target`, some output pixels at a time."""
    lows, counts, weights = _weights(source, target)
    blocks = []
    together = target if source <= _SMALL else _TOGETHER
    for begin in range(0, target, together):
        columns = range(begin, min(begin + together, target))
        low = int(lows[begin])
        high = max(int(lows[c] + counts[c]) for c in columns)
        block = np.zeros((high - low, len(columns)))
        for c in columns:
            start = int(lows[c]) - low
            block[start : start + counts[c], c - begin] = weights[c, : counts[c]]
        blocks.append((begin, low, high, block))
    return blocks


def _weights(source: int, target: int) -> tuple[Any, Any, Any]:
    """First pixel [target], number of pixels [target], weights [target, most pixels]."""
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    reach = _LOBES * stretch
    lows = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    counts = np.minimum((centres + reach + 0.5).astype(np.int64), source) - lows
    places = np.arange(int(counts.max()))
    x = (places + lows[:, None] - centres[:, None] + 0.5) * (1.0 / stretch)
    kernel = np.where((x >= -_LOBES) & (x < _LOBES), np.sinc(x) * np.sinc(x / _LOBES), 0.0)
    kernel[places >= counts[:, None]] = 0.0
    parts = kernel / kernel.sum(axis=1, keepdims=True) * _UNIT
    weights = np.trunc(parts + np.copysign(0.5, parts))
    is_doubtful = np.abs(np.abs(parts) % 1 - 0.5) < 1e-5
    for column in np.flatnonzero(is_doubtful.any(axis=1)):
        count = int(counts[column])
        weights[column, :count] = _exact_weights(x[column, :count].tolist())
    return lows, counts, weights


def _exact_weights(x: list[float]) -> list[int]:
    """As the C library's sine and Pillow's order of additions round them.

    NumPy's own sine may differ in the last bit, which counts where a weight
    lies half-way between two whole numbers.
    """
    kernel = [_sinc(v) * _sinc(v / _LOBES) if -_LOBES <= v < _LOBES else 0.0 for v in x]
    total = 0.0
    for value in kernel:
        total += value
    parts = [value / total * _UNIT for value in kernel]
    return [int(part - 0.5) if part < 0 else int(part + 0.5) for part in parts]


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0
