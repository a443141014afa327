"""Picture sizes from file headers, without Pillow and without decoding.

Each reader gives (width, height) with EXIF orientation applied, or None where
the file holds something that only Pillow knows how to judge (orientation in
XMP, EXIF inside WebP, odd EXIF blocks); the caller then asks Pillow.

Sources: ITU T.81 (JPEG), PNG 3rd edition, GIF89a, RFC 9649 (WebP), EXIF 2.32.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import IO

Size = tuple[int, int]

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""
_ORIENTATION = 0x0112


def size_from_header(file: IO[bytes]) -> Size | None:
    """Read as little as the size needs from a file at its start; None: ask Pillow."""
    head = file.read(32)
    for mark, reader in _READERS:
        if head.startswith(mark):
            try:
                size = reader(file, head)
            except (struct.error, IndexError, ValueError):
                return None
            return size if size and min(size) > 0 else None
    return None


def _jpeg(file: IO[bytes], head: bytes) -> Size | None:
    file.seek(2)
    sideways = False
    while True:
        mark = file.read(1)
        while mark and mark != b"\xff":
            mark = file.read(1)
        code = file.read(1)
        while code == b"\xff":
            code = file.read(1)
        if not code:
            return None
        kind = code[0]
        if kind in _WITHOUT_LENGTH or kind == 0:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if kind in _START_OF_FRAME:
            _, height, width = struct.unpack(">BHH", file.read(5))
            if not (width and height):
                return None
            return (height, width) if sideways else (width, height)
        if kind == 0xDA:
            return None
        if kind != 0xE1:
            file.seek(length - 2, 1)
            continue
        turned = _app1_orientation(file.read(length - 2))
        if turned is None:
            return None
        sideways = sideways or turned in _SIDEWAYS


def _app1_orientation(block: bytes) -> int | None:
    """EXIF orientation of one APP1 block, 1 where it has none, None where Pillow must look."""
    if block.startswith(b"Exif\x00"):
        return _tiff_orientation(block[6:])
    return None if b"tiff:Orientation" in block else 1


def _tiff_orientation(block: bytes) -> int | None:
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(block[:4])
    if order is None:
        return None
    (at,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, at)
    for entry in range(count):
        tag, kind, number = struct.unpack_from(order + "HHI", block, at + 2 + 12 * entry)
        if tag == _ORIENTATION:
            if kind != 3 or number != 1:
                return None
            return int(struct.unpack_from(order + "H", block, at + 10 + 12 * entry)[0])
    return 1


def _png(file: IO[bytes], head: bytes) -> Size | None:
    if head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", head, 16)
    file.seek(33)
    sideways = False
    while True:
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[4:] == b"IEND":
            return (height, width) if sideways else (width, height)
        length, kind = struct.unpack(">I4s", chunk)
        if kind == b"eXIf":
            turned = _tiff_orientation(file.read(length))
            if turned is None:
                return None
            sideways = turned in _SIDEWAYS
            file.seek(4, 1)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            if file.read(min(length, 80)).startswith((b"Raw profile type", b"XML:com.adobe")):
                return None
            file.seek(length - min(length, 80) + 4, 1)
        else:
            file.seek(length + 4, 1)


def _gif(file: IO[bytes], head: bytes) -> Size | None:
    width, height, flags = struct.unpack_from("<HHB", head, 6)
    file.seek(13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0))
    while True:
        kind = file.read(1)
        if kind == b"!":
            file.read(1)
            while length := file.read(1)[0]:
                file.seek(length, 1)
        elif kind == b",":
            left, top, w, h = struct.unpack("<HHHH", file.read(8))
            return max(width, left + w), max(height, top + h)
        else:
            return None


def _webp(file: IO[bytes], head: bytes) -> Size | None:
    if head[8:12] != b"WEBP":
        return None
    kind = head[12:16]
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and head[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    has_exif_or_xmp = kind == b"VP8X" and head[20] & 0x0C
    if kind != b"VP8X" or has_exif_or_xmp:
        return None
    width = int.from_bytes(head[24:27], "little") + 1
    return width, int.from_bytes(head[27:30], "little") + 1


def _bmp(file: IO[bytes], head: bytes) -> Size | None:
    (length,) = struct.unpack_from("<I", head, 14)
    if length < 40:
        return None
    width, height = struct.unpack_from("<ii", head, 18)
    return (width, abs(height)) if width > 0 and height else None


_Reader = Callable[[IO[bytes], bytes], Size | None]
_READERS: tuple[tuple[bytes, _Reader], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF8", _gif),
    (b"RIFF", _webp),
    (b"BM", _bmp),
)


def begins_as_picture(content: bytes) -> bool:
    """Whether the first bytes are those of a picture format that is known here."""
    return any(content.startswith(mark) for mark, _ in _READERS)
