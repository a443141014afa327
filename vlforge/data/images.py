"""Reading pictures: sizes from headers, pixels upright and in RGB, errors that name the file."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from vlforge.data.headers import BLOCK, Header, Size, begins_as_picture, read_header
from vlforge.types import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Source = str | Path | bytes
"""A file's path, or a file's content."""

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded: half a gigabyte of RGB, the bound at which Pillow refuses."""

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_TO_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_tolerating = threading.Lock()
_turns = [0]
"""How often Pillow's tolerance was turned on or off: odd while it is on."""


class ImageError(DataError):
    """A picture that cannot be used; `reason` is the same for all pictures with this fault."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Picture:
    """A decoded picture: its pixels, and whether its file was cut off or damaged."""

    __slots__ = ("_orientation", "_upright", "is_truncated", "stored")

    def __init__(self, stored: Image, orientation: int, is_truncated: bool):
        self.stored = stored
        """As the file holds it, EXIF orientation not applied."""
        self.is_truncated = is_truncated
        self._orientation = orientation
        self._upright: Image | None = None

    @property
    def upright(self) -> Image:
        """In its own mode, EXIF orientation applied."""
        if self._upright is None:
            self._upright = _turned(self.stored, self._orientation)
        return self._upright


def header_size(source: Source) -> Size:
    """(width, height) in pixels with EXIF orientation applied; nothing is decoded.

    Raises:
        ImageError: the file is missing or no picture; names it.
    """
    file = ImageFile("<bytes>", source) if isinstance(source, bytes) else ImageFile(str(source))
    return file.size()


def load_upright(source: Source, *, truncated: Literal["error", "fill"] = "error") -> Image:
    """The decoded picture in its own mode, EXIF orientation applied.

    `truncated="fill"` takes what a cut-off file still holds (the rest grey or
    black), as Data-Juicer does; `"error"` refuses such a file.

    Raises:
        ImageError: missing, no picture, cut off, or over `MAX_PIXELS`; names it.
    """
    file = ImageFile("<bytes>", source) if isinstance(source, bytes) else ImageFile(str(source))
    return file.picture(fills=truncated == "fill").upright


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

    `whole` says that pixels will be wanted, so that the first look reads all of
    it. `is_given` says that the row carried the content, which then stands for
    the file.
    """

    __slots__ = ("_byte_count", "_content", "_header", "is_given", "path", "whole")

    def __init__(self, path: str, content: bytes | None = None, *, whole: bool = False):
        self.path = path
        self.whole = whole
        self.is_given = content is not None
        self._content = content
        self._header: Header | ImageError | None = None
        self._byte_count: int | None = None

    def size(self) -> Size:
        """(width, height), EXIF applied, from the header."""
        header = self._header or self._find_header()
        if isinstance(header, ImageError):
            raise header
        width, height, is_sideways = header
        return (height, width) if is_sideways else (width, height)

    def stored_size(self) -> Size:
        """(width, height) as the file holds them, EXIF orientation not applied."""
        header = self._header or self._find_header()
        if isinstance(header, ImageError):
            raise header
        return header[:2]

    def byte_count(self) -> int:
        """Bytes of the file; it is not opened for that."""
        if self._byte_count is None:
            if self._content is not None:
                return len(self._content)
            try:
                self._byte_count = os.stat(self.path).st_size
            except (OSError, ValueError) as error:
                raise _unreadable(self.path, error) from None
        return self._byte_count

    def picture(self, *, fills: bool = False) -> Picture:
        """The decoded picture; what was read of the file is let go.

        Args:
            fills: decode a cut-off or damaged file as far as it goes.

        Raises:
            ImageError: missing, no picture, over `MAX_PIXELS`, or cut off without `fills`.
        """
        content = self.content()
        self.let_go()
        return _picture(content, self.path, fills=fills)

    def _find_header(self) -> Header | ImageError:
        try:
            if self.whole or self.is_given:
                self._header = _header_of(self.content(), self.path)
            else:
                self._header, self._byte_count = _header_at(self.path)
        except ImageError as error:
            self._header = error
        return self._header

    def content(self) -> bytes:
        """All bytes of the file, kept until they are let go."""
        if self._content is None:
            try:
                with open(self.path, "rb", buffering=0, opener=_open_to_read) as file:
                    self._content = file.readall()
            except (OSError, ValueError) as error:
                raise _unreadable(self.path, error) from None
            self._byte_count = len(self._content)
        return self._content

    def let_go(self) -> None:
        """Forget the bytes that were read; those that the row carried stay."""
        if not self.is_given:
            self._content = None


def _open_to_read(path: str, flags: int) -> int:
    """Opening that does not wait at a pipe."""
    return os.open(path, flags | _TO_OPEN)


def _header_of(content: bytes, name: str) -> Header:
    found = read_header(content, len(content), lambda at, count: content[at : at + count])
    return found or _header_by_pillow(name, content, io.BytesIO(content))


def _header_at(path: str) -> tuple[Header, int]:
    """Header and length of a file, in four system calls where its first block is enough.

    They are most of the cost of a pass over headers.
    """
    try:
        number = os.open(path, _TO_OPEN)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        head = os.read(number, BLOCK)
        length = len(head) if len(head) < BLOCK else os.lseek(number, 0, os.SEEK_END)

        def more(at: int, count: int) -> bytes:
            os.lseek(number, at, os.SEEK_SET)
            return os.read(number, count)

        found = read_header(head, length, more)
        if found is None:
            with open(number, "rb", closefd=False) as file:
                file.seek(0)
                found = _header_by_pillow(path, head, file)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(number)
    return found, length


def _header_by_pillow(name: str, head: bytes, file: IO[bytes]) -> Header:
    from PIL import Image

    with _tolerance(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file) as image:
                width, height = image.size
                is_upright = image.format == "TIFF"  # Pillow exchanges its sides itself
                turned = not is_upright and _orientation_of(image) in _SIDEWAYS
        except Image.DecompressionBombError:
            raise _too_large(name, "") from None
        except Exception:  # whatever a parser stumbles over, the file is at fault
            raise _no_picture(name, head) from None
    return width, height, turned


def _orientation_of(image: Image) -> int:
    """EXIF orientation, 1 where EXIF cannot be read."""
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged block says nothing, the picture may still be good
        return 1
    return found if isinstance(found, int) else 1


def _turned(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    how = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if how is None else image.transpose(how)


def _picture(content: bytes, name: str, *, fills: bool) -> Picture:
    """Decode a file's content, unless its header claims more than `MAX_PIXELS`."""
    width, height, _ = _header_of(content, name)
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")
    fault = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode_strictly(content, name)
        except ImageError:
            raise
        except Exception as error:  # whatever a parser stumbles over, the file is at fault
            fault = str(error)
        if not fills:
            raise _cut_off(name, fault)
        with _tolerance():
            try:
                return _decode(content, name, is_truncated=True)
            except ImageError:
                raise
            except Exception:
                raise _no_picture(name, content) from None


def _decode_strictly(content: bytes, name: str) -> Picture:
    """Decode a whole file; another thread's tolerance meanwhile would let a cut one pass."""
    before = _turns[0]
    picture = _decode(content, name, is_truncated=False)
    if before % 2 == 0 and before == _turns[0]:
        return picture
    with _tolerating:
        return _decode(content, name, is_truncated=False)


def _decode(content: bytes, name: str, *, is_truncated: bool) -> Picture:
    from PIL import Image

    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from None
    return Picture(image, _orientation_of(image), is_truncated)


@contextlib.contextmanager
def _tolerance() -> Iterator[None]:
    """Pillow reads cut-off files as far as they go; its switch is global, so one at a time."""
    from PIL import ImageFile as PillowFiles

    settings: Any = PillowFiles
    with _tolerating:
        before = settings.LOAD_TRUNCATED_IMAGES
        _turns[0] += 1
        settings.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            settings.LOAD_TRUNCATED_IMAGES = before
            _turns[0] += 1


def _unreadable(name: str, error: Exception) -> ImageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ImageError("missing image", f"image {name} does not exist: check its path")
    what = getattr(error, "strerror", None) or error
    return ImageError("unreadable image", f"image {name} cannot be read: {what}")


def _no_picture(name: str, content: bytes) -> ImageError:
    if begins_as_picture(content):
        return ImageError(
            "truncated image", f"image {name} is cut off or damaged in its header: fetch it again"
        )
    return ImageError(
        "unreadable image", f"image {name} is not a picture that can be read: replace it"
    )


def _cut_off(name: str, fault: str) -> ImageError:
    return ImageError(
        "truncated image", f"image {name} is cut off or damaged ({fault}): fetch it again"
    )


def _too_large(name: str, what: str) -> ImageError:
    claim = f"has {what}, over" if what.endswith("pixels") else "is over"
    return ImageError(
        "image too large", f"image {name} {claim} the bound of {MAX_PIXELS} pixels: shrink it"
    )
