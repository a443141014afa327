"""Quicker ways from a picture's file to the small grey one that a hash is made of.

A jpeg's blocks are transforms already: libjpeg gives the picture at a half, a
quarter or an eighth of its size, and grey, for a third of the work. Those
hashes are near the exact ones, not equal to them. Exact ones need all pixels,
which simplejpeg (where it is installed) hands over with less copying.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from vlforge.data.headers import is_plain_jpeg
from vlforge.data.images import MAX_PIXELS, ImageFile
from vlforge.ops.dedup.shrink import shrunk_grey

if TYPE_CHECKING:
    from PIL.Image import Image

_LEAST = 64
"""Pixels that each side of a scaled picture keeps at least, where it has them."""
_ORIENTATION = 0x0112
_JPEG = b"\xff\xd8\xff"
_MARKS = (b"Exif", b"rientation")
"""What a jpeg holds that says how it is turned, in EXIF or XMP."""


def scaled_grey(file: ImageFile, size: tuple[int, int], *, is_theirs: bool = False) -> Any:
    """[height, width] uint8 of an upright picture.

    Args:
        file: jpegs are decoded in small, other formats whole.
        size: (width, height).
        is_theirs: as Data-Juicer sees pictures: cut-off ones as far as they go, those
            from a row's bytes not turned upright.

    Raises:
        ImageError: missing, no picture, too large or cut off.
    """
    from PIL import Image

    turns = not (is_theirs and file.is_given)
    least = max(_LEAST, *size)
    pixels = _quick_grey(file.content(), least)
    if pixels is not None and max(pixels.shape) < 4 * least:
        file.let_go()
        return shrunk_grey(pixels[:, :, None], size)
    if pixels is not None:
        grey: Any = Image.fromarray(pixels)
    else:
        grey = _grey_of_jpeg(file.content(), turns, least)
    file.let_go()
    if grey is None:
        picture = file.picture(fills=is_theirs)
        image = picture.upright if turns else picture.stored
        grey = (image if image.mode in ("L", "RGB") else image.convert("RGB")).convert("L")
    reduced = [max(1, side // (2 * least)) for side in grey.size]
    if max(reduced) > 1:
        grey = grey.reduce((reduced[0], reduced[1]))
    return np.asarray(grey.resize(size, Image.Resampling.LANCZOS))


def plain_pixels(content: bytes) -> Any:
    """[rows, columns, 3 or 1] uint8 of a jpeg, the bytes that Pillow would decode.

    None where the common way has to look: no jpeg, a damaged one, one in other
    colours, one that may lie on its side, or no simplejpeg.
    """
    if not _lies_upright(content):
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        wanted = {"YCbCr": "RGB", "Gray": "GRAY"}.get(colours)
        if wanted is None or width * height > MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(content, wanted)
    except ValueError:
        return None


def _lies_upright(content: bytes) -> bool:
    """Whether this is a jpeg that says nothing of being turned; False where it may."""
    if is_plain_jpeg(content):
        return True
    return content.startswith(_JPEG) and not any(mark in content for mark in _MARKS)


def _quick_grey(content: bytes, least: int) -> Any:
    """[rows, columns] what `_grey_of_jpeg` gives, by simplejpeg; None where that must look."""
    if not _lies_upright(content):
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or width * height > MAX_PIXELS:
            return None
        fits = min(width // least, height // least)
        scale = next((scale for scale in (8, 4, 2) if fits >= scale), 1)
        sides = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
        return simplejpeg.decode_jpeg(content, "GRAY", **sides)[:, :, 0]
    except ValueError:
        return None


def _grey_of_jpeg(content: bytes, turns: bool, least: int) -> Image | None:
    """None for what is no plain jpeg, or a damaged one: that takes the common way."""
    from PIL import Image, ImageOps

    if not content.startswith(_JPEG):
        return None
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=("JPEG",))
        if image.mode not in ("L", "RGB") or image.width * image.height > MAX_PIXELS:
            return None
        image.draft("L", (least, least))
        image.load()
        if turns and image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception:  # whatever is wrong with the file, the common way says it
        return None
    return image.convert("L")
