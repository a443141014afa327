"""Filters on what a picture's header and file system entry say; nothing is decoded."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.base import Bounds, ImageFilter
from vlforge.types import Need, RecipeError

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgtpezy]?)(?:i?b)?\s*", re.I)
_POWERS = "kmgtpezy"


@dataclass(frozen=True, kw_only=True)
class ImageAspectRatioFilter(ImageFilter):
    """Keep rows whose pictures have a width / height within bounds.

    From the header, EXIF orientation applied: nothing is decoded, so a file that
    is cut off behind its header stays. `compat: data_juicer` does not apply the
    orientation of pictures that the row carries as bytes.

    Statistics: `aspect_ratios`, one per picture.
    """

    min_ratio: float = 0.333
    max_ratio: float = 3.0

    needs: ClassVar = Need.HEADER
    stats: ClassVar = ("aspect_ratios",)

    def bounds(self) -> tuple[Bounds, ...]:
        """Of width / height."""
        return ((self.min_ratio, self.max_ratio),)

    def look(self, file: ImageFile) -> tuple[Any, ...]:
        """Width / height of one picture."""
        width, height = file.size() if not self.compat else _size_as_theirs(file)
        return (width / height,)


@dataclass(frozen=True, kw_only=True)
class ImageShapeFilter(ImageFilter):
    """Keep rows whose pictures have a width and height within bounds.

    Both of the same picture, in pixels, from the header with EXIF orientation
    applied: nothing is decoded, so a file that is cut off behind its header
    stays. `compat: data_juicer` does not apply the orientation of pictures that
    the row carries as bytes.

    Statistics: `image_width` and `image_height`, one per picture.
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
        return file.size() if not self.compat else _size_as_theirs(file)


@dataclass(frozen=True, kw_only=True)
class ImageSizeFilter(ImageFilter):
    """Keep rows whose picture files have a size within bounds, such as `1.5kb` or `10 MB`.

    Units are powers of 1024; a bare number is bytes. The files are not opened: a
    broken one has a size. `compat: data_juicer` reads the digits of a bound and
    leaves its point and sign out: there `1.5kb` is 15 kb.

    Statistics: `image_sizes`, bytes, one per picture.
    """

    min_size: str | int | float = "0"
    max_size: str | int | float = "1TB"

    needs: ClassVar = Need.HEADER
    stats: ClassVar = ("image_sizes",)

    def __post_init__(self) -> None:
        self.bounds()

    def bounds(self) -> tuple[Bounds, ...]:
        """In bytes."""
        read = digits_in_bytes if self.compat == "data_juicer" else size_in_bytes
        return ((read(self.min_size), read(self.max_size)),)

    def look(self, file: ImageFile) -> tuple[Any, ...]:
        """Bytes of one file."""
        return (file.byte_count(),)


def _size_as_theirs(file: ImageFile) -> tuple[int, int]:
    """Width and height as Data-Juicer sees them: of a row's bytes not turned."""
    return file.stored_size() if file.is_given else file.size()


@functools.lru_cache(maxsize=64)
def size_in_bytes(size: str | int | float) -> float:
    """`1.5kb` -> 1536; a bare number is bytes.

    Raises:
        RecipeError: neither a number nor a number with a unit.
    """
    if isinstance(size, int | float):
        return size
    found = _SIZE.fullmatch(size)
    if found is None:
        raise RecipeError(f"image_size_filter: {size!r} is no size: write 500, 10kb or 1.5MB")
    number, unit = found.groups()
    value = float(number) * 1024 ** (1 + _POWERS.index(unit.lower()) if unit else 0)
    return int(value) if value.is_integer() else value


def digits_in_bytes(size: str | int | float) -> float:
    """A size as Data-Juicer reads it: all its digits, then all its letters as the unit.

    Raises:
        RecipeError: no digit, or letters that are no unit.
    """
    if isinstance(size, int | float):
        return size
    digits = "".join(filter(str.isdigit, size))
    unit = "".join(filter(str.isalpha, size)).lower()
    known = {"": 0} | {f"{p}{i}b": at for at, p in enumerate(_POWERS, 1) for i in ("", "i")}
    if not digits or unit not in known:
        raise RecipeError(f"image_size_filter: {size!r} is no size to Data-Juicer: write 10kb")
    return int(float(digits)) * 1024 ** known[unit]
