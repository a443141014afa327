"""Pictures for the page: what a row names, decoded and written anew, within bounds."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from vlforge.data.images import load_upright, to_rgb
from vlforge.data.records import Picture
from vlforge.types import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDES = {"thumb": 480, "whole": 2400}
"""Longest side in pixels of each size that is served."""
_MAX_BYTES = 256 << 20
_CACHE_BYTES = 64 << 20
_AT_ONCE = 2
"""Pictures decoded at a time: the largest that is allowed takes half a gigabyte."""


class Shown:
    """Encoded pictures for the page; the last ones are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, int, str], tuple[bytes, str]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._turn = threading.Semaphore(_AT_ONCE)

    def get(self, key: tuple[str, int, int, str], picture: Picture) -> tuple[bytes, str]:
        """(bytes, media type) of a picture in the size that `key` ends with.

        Raises:
            DataError: missing, no picture, not a regular file, or too large; says which.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._turn:
            made = encoded(_decoded(picture), SIDES[key[3]])
        with self._lock:
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[str, int, int, str], made: tuple[bytes, str]) -> None:
        if key not in self._kept:
            self._kept[key] = made
            self._bytes += len(made[0])
        while self._bytes > _CACHE_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1][0])


def _decoded(picture: Picture) -> Image:
    if picture.content is not None:
        return load_upright(picture.content, truncated="fill")
    place = picture.place
    try:
        found = os.stat(place)
    except (OSError, ValueError):
        raise DataError("missing image: no such file") from None
    # A device or a pipe that a row names would never end.
    if not stat.S_ISREG(found.st_mode):
        raise DataError("unreadable image: not a regular file")
    if found.st_size > _MAX_BYTES:
        raise DataError(f"image too large: over {_MAX_BYTES >> 20} MiB")
    return load_upright(place, truncated="fill")


def encoded(image: Image, side: int) -> tuple[bytes, str]:
    """(bytes, media type) of a picture, no side longer than `side`."""
    image.thumbnail((side, side), reducing_gap=2.0)
    data = io.BytesIO()
    is_clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if is_clear:
        image.convert("RGBA").save(data, "PNG")
        return data.getvalue(), "image/png"
    to_rgb(image).save(data, "JPEG", quality=88)
    return data.getvalue(), "image/jpeg"
