"""Pictures resized and encoded as img2dataset has them, to the byte: OpenCV does the work.

One thing differs: a picture of 16 bits a channel is brought to 8 where
img2dataset cuts its values off at 255. The EXIF orientation is not applied, as
there; it stays in the column `exif`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from vlforge.data.download.config import DownloadConfig
from vlforge.data.headers import read_header
from vlforge.types import RecipeError

MAX_PIXELS = 1 << 28
"""Pictures beyond are not decoded: a file of some kilobytes may claim any size."""
UNREADABLE = "Image decoding error"
_SIGNS = {"jpg": (b"\xff\xd8\xff",), "png": (b"\x89PNG\r\n\x1a\n",), "webp": (b"RIFF",)}
_FILTERS = {
    "nearest": "INTER_NEAREST", "linear": "INTER_LINEAR", "bilinear": "INTER_LINEAR",
    "cubic": "INTER_CUBIC", "bicubic": "INTER_CUBIC", "area": "INTER_AREA",
    "lanczos": "INTER_LANCZOS4", "lanczos4": "INTER_LANCZOS4",
}  # fmt: skip


class Unusable(Exception):
    """A picture that is not kept: a short reason."""


@dataclass(frozen=True, slots=True)
class Resized:
    """An encoded picture and its sizes; None where nothing was decoded."""

    content: bytes
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None


def need_opencv(config: DownloadConfig) -> None:
    """Check that what resizes is there.

    Raises:
        RecipeError: says what to install.
    """
    if not config.reencodes:
        return
    from importlib.util import find_spec

    if find_spec("cv2") is None:
        raise RecipeError("download needs opencv to resize: pip install 'vlforge[fast]'")


def resize(content: bytes, config: DownloadConfig) -> Resized:
    """The picture as it is kept.

    Raises:
        Unusable: it cannot be decoded, or is too small, too large or too long.
    """
    if not config.reencodes:
        return Resized(content)
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    import cv2

    header = read_header(content[:4096], len(content), lambda at, n: content[at : at + n])
    if header is not None and header[0] * header[1] > MAX_PIXELS:
        raise Unusable("image area too large")
    try:
        pixels, is_new = _decoded(content)
        height, width = pixels.shape[:2]
        _check_size(width, height, config)
        shown = _fitted(pixels, config)
        is_new = is_new or shown is not pixels or not _is_of(content, config.encode_format)
        if is_new or not config.skip_reencode:
            content = _encoded(shown, config)
    except (cv2.error, MemoryError):
        raise Unusable(UNREADABLE) from None
    return Resized(content, shown.shape[1], shown.shape[0], width, height)


def _decoded(content: bytes) -> tuple[Any, bool]:
    """Pixels of 8 bits in 1 or 3 channels, and whether they differ from the file's."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    pixels: Any = None
    if content:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or not pixels.size:
        raise Unusable(UNREADABLE)
    is_new = False
    if pixels.dtype == np.uint16:
        pixels, is_new = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8), True
    if pixels.dtype != np.uint8:
        raise Unusable(f"pixels of type {pixels.dtype}")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        alpha = pixels[:, :, 3, np.newaxis]
        on_white = alpha / 255 * pixels[..., :3] + 255 - alpha
        pixels, is_new = np.rint(on_white.clip(0, 255)).astype(np.uint8), True
    return pixels, is_new


def _check_size(width: int, height: int, config: DownloadConfig) -> None:
    if min(width, height) < config.min_image_size:
        raise Unusable("image too small")
    if width * height > config.max_image_area:
        raise Unusable("image area too large")
    if max(width, height) / min(width, height) > config.max_aspect_ratio:
        raise Unusable("aspect ratio too large")


def _fitted(pixels: Any, config: DownloadConfig) -> Any:
    """The picture in its new size; the same object where the mode leaves it alone."""
    import cv2

    mode, size = config.resize_mode, config.image_size
    if mode == "no":
        return pixels
    height, width = pixels.shape[:2]
    side = min(width, height) if mode in ("keep_ratio", "center_crop") else max(width, height)
    if config.resize_only_if_bigger and side <= size:
        return pixels
    scale = size / side
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if new_height * new_width > MAX_PIXELS:
        raise Unusable("aspect ratio too large")
    if (new_height, new_width) != (height, width):
        name = config.downscale_interpolation if side > size else config.upscale_interpolation
        interpolation = getattr(cv2, _FILTERS[name])
        pixels = cv2.resize(pixels, (new_width, new_height), interpolation=interpolation)
    if mode == "center_crop":
        top, left = (new_height - size) // 2, (new_width - size) // 2
        return pixels[top : top + size, left : left + size]
    if mode == "border":
        top, left = (size - new_height) // 2, (size - new_width) // 2
        bottom, right = size - new_height - top, size - new_width - left
        return cv2.copyMakeBorder(
            pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=[255, 255, 255]
        )
    return pixels


def _is_of(content: bytes, kind: str) -> bool:
    return content.startswith(_SIGNS[kind]) and (kind != "webp" or content[8:12] == b"WEBP")


def _encoded(pixels: Any, config: DownloadConfig) -> bytes:
    import cv2

    flag = {
        "jpg": cv2.IMWRITE_JPEG_QUALITY,
        "png": cv2.IMWRITE_PNG_COMPRESSION,
        "webp": cv2.IMWRITE_WEBP_QUALITY,
    }[config.encode_format]
    done, data = cv2.imencode(f".{config.encode_format}", pixels, [flag, config.quality])
    if not done:
        raise Unusable("Image encoding error")
    return bytes(data.tobytes())
