"""Filters on what a picture's header and file system entry say; nothing is decoded."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import Bounds, ImageFilter
from vlforge.types import Need

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgtpezy]?)(?:i?b)?\s*", re.I)
_POWERS = "kmgtpezy"


@dataclass(frozen=True, kw_only=True)
class ImageAspectRatioFilter(ImageFilter):
    """Keep rows whose pictures have a width / height within bounds (EXIF applied)."""

    min_ratio: float = 0.333
    max_ratio: float = 3.0

    needs: ClassVar = Need.HEADER
    stats: ClassVar = ("aspect_ratios",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of width / height."""
        return ((self.min_ratio, self.max_ratio),)

    def look(self, file: ImageFile) -> tuple[Any, ...]:
        """Width / height of one picture."""
        width, height = file.size()
        return (width / height,)


@dataclass(frozen=True, kw_only=True)
class ImageShapeFilter(ImageFilter):
    """Keep rows whose pictures have a width and height within bounds.

    Pixels, from the header with EXIF orientation applied.
    """

    min_width: int = 1
    max_width: int = sys.maxsize
    min_height: int = 1
    max_height: int = sys.maxsize

    needs: ClassVar = Need.HEADER
    stats: ClassVar = ("image_width", "image_height")

    def bounds(self) -> tuple[Bounds, ...]:
        """In pixels."""
        return ((self.min_width, self.max_width), (self.min_height, self.max_height))

    def look(self, file: ImageFile) -> tuple[Any, ...]:
        """Width and height of one picture."""
        return file.size()


@dataclass(frozen=True, kw_only=True)
class ImageSizeFilter(ImageFilter):
    """Keep rows whose picture files have a size within bounds, such as `1.5kb` or `10 MB`.

    Units are powers of 1024. The files are not opened: a broken one has a size.
    """

    min_size: str | int | float = "0"
    max_size: str | int | float = "1TB"

    needs: ClassVar = Need.HEADER
    stats: ClassVar = ("image_sizes",)

    def __post_init__(self) -> None:
        self.bounds()

    def bounds(self) -> tuple[Bounds, ...]:
        """In bytes."""
        return ((size_in_bytes(self.min_size), size_in_bytes(self.max_size)),)

    def look(self, file: ImageFile) -> tuple[Any, ...]:
        """Bytes of one file."""
        return (file.byte_count(),)


@functools.lru_cache(maxsize=64)
def size_in_bytes(size: str | int | float) -> float:
    """`1.5kb` -> 1536; a bare number is bytes.

    Raises:
        ValueError: neither a number nor a number with a unit.
    """
    if isinstance(size, int | float):
        return size
    found = _SIZE.fullmatch(size)
    if found is None:
        raise ValueError(f"{size!r} is no size: write 500, 10kb or 1.5MB")
    number, unit = found.groups()
    value = float(number) * 1024 ** (1 + _POWERS.index(unit.lower()) if unit else 0)
    return int(value) if value.is_integer() else value
