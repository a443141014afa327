"""Reading pictures: sizes from headers, pixels upright and in RGB, errors that name the file."""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlforge.data.headers import Size, begins_as_picture, size_from_header
from vlforge.types import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Source = str | Path | bytes
"""A file's path, or a file's content."""

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded: half a gigabyte of RGB, the bound at which Pillow refuses."""

_EXIF_ORIENTATION = 0x0112
_decoding = threading.Lock()


class ImageError(DataError):
    """A picture that cannot be used; `reason` is the same for all pictures with this fault."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def header_size(source: Source) -> Size:
    """(width, height) in pixels with EXIF orientation applied; nothing is decoded.

    Raises:
        ImageError: the file is missing or no picture; names it.
    """
    return _size(source, io.BytesIO(source) if isinstance(source, bytes) else None)


def load_upright(source: Source, *, truncated: Literal["error", "fill"] = "error") -> Image:
    """The decoded picture in its own mode, EXIF orientation applied.

    `truncated="fill"` takes what a cut-off file still holds (the rest grey or
    black), as Data-Juicer does; `"error"` refuses such a file.

    Raises:
        ImageError: missing, no picture, cut off, or over `MAX_PIXELS`; names it.
    """
    content = _content(source)
    width, height = _size(source, io.BytesIO(content))
    if width * height > MAX_PIXELS:
        raise ImageError(
            "image too large",
            f"image {_name(source)} has {width} x {height} pixels, "
            f"over the bound of {MAX_PIXELS}: shrink it",
        )
    return _decode(source, content, truncated)


def load_rgb(source: Source, *, truncated: Literal["error", "fill"] = "error") -> Image:
    """The picture as a model wants it: upright, RGB, 16-bit grey scaled to 8 bits.

    Transparency is dropped, not blended. Arguments and errors as `load_upright`.
    """
    return to_rgb(load_upright(source, truncated=truncated))


def to_rgb(image: Image) -> Image:
    """RGB of a decoded picture of any mode; 16-bit grey is scaled, not clipped."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value * (1 / 257), "L").convert("RGB")
    if image.mode in ("I", "F"):
        _, high = image.getextrema()
        scale = 1 / 257 if isinstance(high, int | float) and high > 255 else 1.0
        return image.point(lambda value: value * scale).convert("L").convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


class ImageFile:
    """One picture of a batch: its file is opened at most once, its size found at most once.

    `whole` says that pixels will be wanted, so that the first look reads all of it.
    """

    __slots__ = ("_byte_count", "_content", "_size", "path", "whole")

    def __init__(self, path: str, content: bytes | None = None, *, whole: bool = False):
        self.path = path
        self.whole = whole
        self._content = content
        self._size: Size | ImageError | None = None
        self._byte_count: int | None = None if content is None else len(content)

    @property
    def source(self) -> Source:
        """What the loaders take: the content where it is here already, else the path."""
        return self.path if self._content is None else self._content

    def size(self) -> Size:
        """(width, height), EXIF applied, from the header."""
        if self._size is None:
            try:
                self._size = self._read_size()
            except ImageError as error:
                self._size = error
        if isinstance(self._size, ImageError):
            raise self._size
        return self._size

    def byte_count(self) -> int:
        """Bytes of the file; it is not opened for that."""
        if self._byte_count is None:
            try:
                self._byte_count = os.stat(self.path).st_size
            except OSError as error:
                raise _unreadable(self.path, error) from None
        return self._byte_count

    def upright(self, *, truncated: Literal["error", "fill"] = "error") -> Image:
        """As `load_upright`; the content is let go once decoded."""
        self._read_whole()
        content, self._content = self._content, None
        assert content is not None
        return load_upright(_Named(content, self.path), truncated=truncated)

    def _read_whole(self) -> None:
        if self._content is None:
            self._content = _content(self.path)
            self._byte_count = len(self._content)

    def _read_size(self) -> Size:
        if self.whole:
            self._read_whole()
        if self._content is not None:
            return _size(self.path, io.BytesIO(self._content))
        size, self._byte_count = _jpeg_size_and_bytes(self.path)
        return size or _size(self.path, None)


class _Named(bytes):
    """A file's content that still knows its name, for messages."""

    name: str

    def __new__(cls, content: bytes, name: str) -> _Named:
        self = super().__new__(cls, content)
        self.name = name
        return self


def _name(source: Source) -> str:
    if isinstance(source, bytes):
        return getattr(source, "name", "<bytes>")
    return str(source)


def _content(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        with open(source, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise _unreadable(str(source), error) from None


def _size(source: Source, opened: io.BytesIO | None) -> Size:
    try:
        if opened is not None:
            found = size_from_header(opened)
        else:
            assert not isinstance(source, bytes)
            with open(source, "rb", buffering=4096) as file:
                found = size_from_header(file)
    except OSError as error:
        raise _unreadable(_name(source), error) from None
    return found or _size_by_pillow(source, opened)


def _jpeg_size_and_bytes(path: str) -> tuple[Size | None, int]:
    """The size of a jpeg whose first 4 KB tell it, else None; and the file's length.

    Three system calls instead of the eight of an opened file: most of the cost
    of a pass over headers is here.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            head = os.read(number, 4096)
            length = os.fstat(number).st_size
        finally:
            os.close(number)
    except OSError as error:
        raise _unreadable(path, error) from None
    is_jpeg = head.startswith(b"\xff\xd8\xff")
    return (size_from_header(io.BytesIO(head)) if is_jpeg else None), length


def _size_by_pillow(source: Source, opened: io.BytesIO | None) -> Size:
    from PIL import Image, UnidentifiedImageError

    if opened is not None:
        opened.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(opened if opened is not None else str(source)) as image:
                width, height = image.size
                turned = image.getexif().get(_EXIF_ORIENTATION, 1)
    except FileNotFoundError as error:
        raise _unreadable(_name(source), error) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError):
        raise _no_picture(source) from None
    except Image.DecompressionBombError:
        raise ImageError(
            "image too large", f"image {_name(source)} is over {MAX_PIXELS} pixels: shrink it"
        ) from None
    return (height, width) if turned in (5, 6, 7, 8) else (width, height)


def _decode(source: Source, content: bytes, truncated: Literal["error", "fill"]) -> Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image: Image.Image = Image.open(io.BytesIO(content))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            raise _no_picture(source, content) from None
        except Image.DecompressionBombError as error:
            raise ImageError("image too large", f"image {_name(source)}: {error}") from None
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
            if truncated == "error":
                raise ImageError(
                    "truncated image",
                    f"image {_name(source)} is cut off or damaged ({error}): fetch it again",
                ) from None
            image = _decode_cut_off(source, content)
        if image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1):
            image = ImageOps.exif_transpose(image)
    return image


def _decode_cut_off(source: Source, content: bytes) -> Image:
    """Decode as far as the file goes; Pillow's switch for that is global, so one at a time."""
    from PIL import Image
    from PIL import ImageFile as PillowFiles

    with _decoding:
        before = PillowFiles.LOAD_TRUNCATED_IMAGES
        PillowFiles.LOAD_TRUNCATED_IMAGES = True
        try:
            image: Image.Image = Image.open(io.BytesIO(content))
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError, IndexError):
            raise _no_picture(source, content) from None
        finally:
            PillowFiles.LOAD_TRUNCATED_IMAGES = before
    return image


def _unreadable(name: str, error: OSError) -> ImageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ImageError("missing image", f"image {name} does not exist: check its path")
    return ImageError("unreadable image", f"image {name} cannot be read: {error.strerror or error}")


def _no_picture(source: Source, content: bytes = b"") -> ImageError:
    if begins_as_picture(content):
        return ImageError(
            "truncated image", f"image {_name(source)} is cut off in its header: fetch it again"
        )
    return ImageError(
        "unreadable image", f"image {_name(source)} is not a picture that can be read: replace it"
    )
