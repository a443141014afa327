"""Perceptual hashes of pictures: 64 bits that change little when a picture changes little.

All start from a small grey picture: the RGB one shrunk by Lanczos, then grey.

Source: imagededup 0.3.3, whose bits these are (Data-Juicer's image hashes).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Method = Literal["phash", "dhash", "whash", "ahash"]

_HAAR = 2**-0.5
_PIXELS_AT_ONCE = 1 << 16
"""Small pictures that are hashed together have so many pixels; more fall out of the cache."""


def grey_size(method: Method) -> tuple[int, int]:
    """(width, height) of the small grey picture that a hash is made of."""
    return _METHODS[method][0]


def fast_grey_size(method: Method) -> tuple[int, int]:
    """The same for pictures that are decoded in small; their blocks are averaged afterwards."""
    return (64, 64) if method == "whash" else grey_size(method)


def image_hash(image: Image, method: Method) -> bytes:
    """8 bytes of an RGB picture, shrunk by Pillow; what the quicker ways must agree with."""
    from PIL.Image import Resampling

    grey = np.asarray(image.resize(grey_size(method), Resampling.LANCZOS).convert("L"))
    return hashes_of(grey[None], method)[0]


def hashes_of(greys: Any, method: Method) -> list[bytes]:
    """8 bytes of each of `greys` [pictures, height, width] uint8.

    For `whash` both sides may be 8 times any power of 2.
    """
    count, height, width = greys.shape
    some = max(1, _PIXELS_AT_ONCE // (height * width))
    bits_of = _METHODS[method][1]
    bits = [bits_of(greys[at : at + some]).reshape(-1, 64) for at in range(0, count, some)]
    packed = np.packbits(np.concatenate(bits), axis=1).tobytes()
    return [packed[at : at + 8] for at in range(0, len(packed), 8)]


def distance(first: bytes, second: bytes) -> int:
    """Number of bits in which two hashes of the same length differ."""
    return (int.from_bytes(first) ^ int.from_bytes(second)).bit_count()


def _phash(greys: Any) -> Any:
    """Low frequencies at or above their median, the mean brightness left out of it."""
    count, height, width = greys.shape
    down = _low_dct(greys.transpose(0, 2, 1).reshape(-1, height))
    rows = down.reshape(count, width, 8).transpose(0, 2, 1).reshape(-1, width)
    low = _low_dct(rows).reshape(count, 64)
    return low >= np.partition(low[:, 1:], 31, axis=1)[:, 31:32]


def _low_dct(rows: Any) -> Any:
    """[R, 8], the first frequencies of the unnormalised DCT-II of each row [R, N], N even.

    Symmetric and flat pictures have frequencies that are exactly zero; whether
    they come out as zero or as rounding noise decides bits of the hash. So the
    sums are taken in the order of pocketfft, which the source hashes with,
    instead of by the matrix product that would be shorter.

    Source: pocketfft's T_dcst23 (Reinecke), the engine of scipy.fft.dct.
    """
    size = rows.shape[-1]
    half = size // 2
    values = rows.astype(np.float64)
    values[:, [0, -1]] *= 2
    odd, even = values[:, 1:-1:2], values[:, 2::2]
    spectrum = np.empty((len(values), half + 1), dtype=np.complex128)
    spectrum[:, 0], spectrum[:, half] = values[:, 0], values[:, -1]
    np.add(odd, even, out=spectrum.real[:, 1:half])
    np.subtract(even, odd, out=spectrum.imag[:, 1:half])
    out = np.fft.irfft(spectrum, n=size, norm="forward")
    here, there = _twiddles(size)[:7], _twiddles(size)[:-8:-1]
    first, last = out[:, 1:8], out[:, :-8:-1]
    low = out[:, :8].copy()
    low[:, 1:] = 0.5 * ((here * last + there * first) + (here * first - there * last))
    return low


@functools.cache
def _twiddles(size: int) -> Any:
    """[size - 1] cosines of k pi / (2 size), rounded from extended precision."""
    pi = np.arccos(np.longdouble(-1))
    return np.cos(pi * np.arange(1, size) / np.longdouble(2 * size)).astype(np.float64)


def _dhash(greys: Any) -> Any:
    """Brighter than the pixel to the left."""
    return greys[:, :, 1:] > greys[:, :, :-1]


def _ahash(greys: Any) -> Any:
    """At least as bright as the mean."""
    return greys >= greys.mean(axis=(1, 2), keepdims=True)


def _whash(greys: Any) -> Any:
    """Haar steps down to 8 x 8, each at least as bright as the median.

    Equal blocks tie, and rounding decides their bits; so the steps are taken
    one by one, rows before columns, as PyWavelets takes them.
    """
    levels = (np.arange(256) / 255)[greys]
    while levels.shape[1] > 8:
        levels *= _HAAR
        levels = levels[:, 1::2] + levels[:, ::2]
        levels *= _HAAR
        levels = levels[:, :, 1::2] + levels[:, :, ::2]
    flat = levels.reshape(len(levels), 64)
    return flat >= np.median(flat, axis=1, keepdims=True)


_METHODS: dict[str, tuple[tuple[int, int], Callable[[Any], Any]]] = {
    "phash": ((32, 32), _phash),
    "dhash": ((9, 8), _dhash),
    "ahash": ((8, 8), _ahash),
    "whash": ((256, 256), _whash),
}
