"""Perceptual hashes of pictures: 64 bits that change little when a picture changes little.

All start from the picture in RGB, shrunk by Lanczos, then grey.

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


def image_hash(image: Image, method: Method) -> bytes:
    """8 bytes of an RGB picture."""
    size, bits_of = _METHODS[method]
    from PIL.Image import Resampling

    grey = np.asarray(image.resize(size, Resampling.LANCZOS).convert("L"))
    return np.packbits(bits_of(grey)).tobytes()


def distance(first: bytes, second: bytes) -> int:
    """Number of bits in which two hashes of the same length differ."""
    return (int.from_bytes(first) ^ int.from_bytes(second)).bit_count()


def _phash(grey: Any) -> Any:
    """[8, 8] low frequencies at or above their median, the mean brightness left out of it."""
    low = _dct(_dct(grey.T).T)[:8, :8]
    return low >= np.median(low.ravel()[1:])


def _dct(rows: Any) -> Any:
    """Unnormalised DCT-II of each row [R, N], N even, by one real Fourier transform.

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
    odd, even = values[:, 1:-1:2].copy(), values[:, 2::2].copy()
    spectrum = np.empty((len(values), half + 1), dtype=np.complex128)
    spectrum[:, 0], spectrum[:, half] = values[:, 0], values[:, -1]
    spectrum[:, 1:half] = (odd + even) + 1j * (even - odd)
    out = np.fft.irfft(spectrum, n=size, norm="forward")
    front = np.arange(1, half)
    back = size - front
    here, there = _twiddles(size)[front - 1], _twiddles(size)[back - 1]
    first, last = out[:, front], out[:, back]
    sums, differences = here * last + there * first, here * first - there * last
    out[:, front], out[:, back] = 0.5 * (sums + differences), 0.5 * (sums - differences)
    out[:, half] *= _twiddles(size)[half - 1]
    return out


@functools.cache
def _twiddles(size: int) -> Any:
    """[size - 1] cosines of k pi / (2 size), rounded from extended precision."""
    pi = np.arccos(np.longdouble(-1))
    return np.cos(pi * np.arange(1, size) / np.longdouble(2 * size)).astype(np.float64)


def _dhash(grey: Any) -> Any:
    """[8, 8] brighter than the pixel to the left."""
    return grey[:, 1:] > grey[:, :-1]


def _ahash(grey: Any) -> Any:
    """[8, 8] at least as bright as the mean."""
    return grey >= grey.mean()


def _whash(grey: Any) -> Any:
    """[8, 8] five Haar steps down, at least as bright as the median."""
    blocks = grey.reshape(8, 32, 8, 32).sum(axis=(1, 3), dtype=np.int64)
    return blocks >= np.median(blocks)


_METHODS: dict[str, tuple[tuple[int, int], Callable[[Any], Any]]] = {
    "phash": ((32, 32), _phash),
    "dhash": ((9, 8), _dhash),
    "ahash": ((8, 8), _ahash),
    "whash": ((256, 256), _whash),
}
