"""Picture sizes from file headers, without Pillow and without decoding.

Each reader gives width, height and whether EXIF lays the picture on its side,
exactly as Pillow would; or None where the file holds something that Pillow has
to judge (orientation in XMP, animations, odd or damaged blocks). So whoever
gets None asks Pillow, which mostly finds the file broken. Only a file that ends
too early has its size here, once that was read, where Pillow refuses it.

Sources: ITU T.81 (JPEG), PNG 3rd edition, GIF89a, RFC 6386 and 9649 (WebP),
EXIF 2.32; Pillow 13 for what it refuses.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

Size = tuple[int, int]
Header = tuple[int, int, bool]
"""Width and height as stored, and whether EXIF exchanges them."""
More = Callable[[int, int], bytes]
"""`more(at, count)`: so many bytes of the file from `at`, fewer where it ends."""

BLOCK = 4096
"""Bytes to read of a file at first: the whole header of most."""
_AHEAD = 16384
"""Bytes to read wherever a header goes on: one call for several of its parts."""

_SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""
_EXIF = b"Exif\x00\x00"


def read_header(head: bytes, length: int, more: More) -> Header | None:
    """Size and side of a picture, from as little of its file as they need.

    Args:
        head: the first `BLOCK` bytes or more, all of a shorter file.
        length: bytes of the whole file.
        more: reads the rest; not called where `head` is enough.
    """
    plain = _plain_jpeg(head)
    if plain is not None:
        height, width = _TWO_SHORTS(plain[1] or plain[2])
        return (width, height, False) if width and height else None
    for mark, reader in _READERS:
        if head.startswith(mark):
            file = Peek(head, length, more)
            try:
                header = reader(file)
            except _Ended:
                header = file.found
            except (struct.error, ValueError, IndexError):
                return None
            return header if min(header[:2]) > 0 else None
    return None


def begins_as_picture(content: bytes) -> bool:
    """Whether the first bytes are those of a picture format that is known here."""
    return any(content.startswith(mark) for mark, _ in _READERS)


def is_plain_jpeg(content: bytes) -> bool:
    """Whether a jpeg's header holds tables and a frame only: no EXIF, no XMP, nothing else."""
    return _plain_jpeg(content) is not None


class Peek:
    """Any part of a file, where possible from the block that was read last.

    `found` is what is known of the header, should the file end too early.
    """

    __slots__ = ("_at", "_block", "_more", "found", "length")

    def __init__(self, head: bytes, length: int, more: More):
        self.length = length
        self.found: Header = (0, 0, False)
        self._at, self._block, self._more = 0, head, more

    def take(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`."""
        if at + count > self.length:
            raise _Ended
        start = at - self._at
        if start < 0 or start + count > len(self._block):
            self._block = self._more(at, max(count, _AHEAD))
            self._at, start = at, 0
        return self._block[start : start + count]


class _Ended(Exception):
    """The file is cut off."""


class _Odd(ValueError):
    """The file holds something that Pillow has to judge."""


_TWO_SHORTS = struct.Struct(">HH").unpack
_plain_jpeg = re.compile(
    rb"\xff\xd8(?:\xff\xe0\0\x10JFIF\0.{9})?"
    rb"(?:\xff\xdb\0(?:\x43[\0-\x0f].{64}|\x84(?:[\0-\x0f].{64}){2}))+"
    rb"\xff[\xc0-\xc2]\0(?:\x11\x08(....)\x03.{9}|\x0b\x08(....)\x01.{3})"
    rb"(?:\xff\xc4(?:\0\x1f.{29}|\0\xb5.{179}|\x01\xa2.{416}))*"
    rb"\xff\xda\0(?:\x0c.{10}|\x08.{6})",
    re.DOTALL,
).match
"""What most libraries write: tables and a frame, no EXIF. As `_jpeg`, in a third of its time."""

_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SKIPPED = frozenset({0xC4, 0xCC, 0xDC, 0xDD, 0xDF, 0xFE, *range(0xE3, 0xED), 0xEF})
"""Segments whose content says nothing about the size."""
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_XMP = b"http://ns.adobe.com/xap/1.0/\x00"


def _jpeg(file: Peek) -> Header:
    at, has_xmp = 2, False
    size: Size | None = None
    orientation: int | None = None
    while True:
        mark, kind, length = struct.unpack(">BBH", file.take(at, 4))
        if mark != 0xFF or length < 2:
            raise _Odd
        if kind == _START_OF_SCAN and at + 2 + length <= file.length:
            break
        block = b"" if kind in _SKIPPED else file.take(at + 4, length - 2)
        if kind in _FRAME:
            size = _frame(block)
            file.found = (*size, orientation in _SIDEWAYS)
        elif kind == _APP1 and block.startswith(_EXIF):
            if orientation is not None:
                raise _Odd
            orientation = exif_orientation(block)
        elif kind == _APP1:
            has_xmp |= block.startswith(_XMP) and b"tiff:Orientation" in block
        elif kind not in _SKIPPED and not _is_sound(kind, block):
            raise _Odd
        at += 2 + length
    if size is None or (has_xmp and not orientation):
        raise _Odd
    return (*size, orientation in _SIDEWAYS)


def _frame(block: bytes) -> Size:
    bits, height, width, layers = struct.unpack_from(">BHHB", block)
    if bits != 8 or layers not in (1, 3, 4) or len(block) % 3:
        raise _Odd
    return width, height


def _is_sound(kind: int, block: bytes) -> bool:
    """Whether Pillow reads over this segment without a fault, and sees nothing in it."""
    if kind == 0xDB:
        return _are_tables(block)
    if kind in (0xE0, 0xEE):
        return len(block) >= 7
    if kind == 0xE2:
        return len(block) >= 14 and not block.startswith(b"MPF\x00")
    return kind == 0xED and _are_resources(block)


def _are_tables(block: bytes) -> bool:
    """Whether quantisation tables fill the segment."""
    at = 0
    while at < len(block):
        at += 65 if block[at] < 16 else 129
    return at == len(block)


def _are_resources(block: bytes) -> bool:
    """Whether Photoshop's resources end where Pillow can bear it."""
    if not block.startswith(b"Photoshop 3.0\x00"):
        return True
    at = 14
    while block[at : at + 4] == b"8BIM":
        if at + 6 == len(block):
            return False
        if at + 7 > len(block):
            return True
        at += 7 + block[at + 6]
        at += at & 1
        if at + 4 > len(block):
            return True
        at += 4 + int.from_bytes(block[at : at + 4])
        at += at & 1
    return True


_ORIENTATION = {b"II*\x00": b"\x12\x01", b"MM\x00*": b"\x01\x12"}
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of one value of each TIFF type."""


def exif_orientation(block: bytes) -> int:
    """Orientation 1..8 of an EXIF block, 0 where it says none.

    Raises:
        ValueError: the block is not as it should be: Pillow has to look.
    """
    if block.startswith(_EXIF):
        block = block[6:]
    tag = _ORIENTATION.get(block[:4])
    if tag is None:
        raise _Odd
    order = "<" if tag[0] == 0x12 else ">"
    (at,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, at)
    at += 2
    if tag not in block[at : at + 12 * count]:
        return 0
    for entry in range(at, at + 12 * count, 12):
        found, kind, number, place = struct.unpack_from(order + "HHII", block, entry)
        if found == 0x0112 and kind == 3 and number == 1:
            return int(struct.unpack_from(order + "H", block, entry + 8)[0])
        size = _UNITS.get(kind, 0) * number
        if found == 0x0112 or (size > 4 and place + size > len(block)):
            raise _Odd
    return 0


_PNG_MODES = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits per sample that each colour type allows."""
_PNG_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_PNG_WITH_FRAMES = frozenset({b"acTL", b"fcTL", b"fdAT"})


def _png(file: Peek) -> Header:
    head = file.take(0, 33)
    width, height, bits, colour, _, method, _ = struct.unpack(">II5B", head[16:29])
    is_whole = zlib.crc32(head[12:29]) == int.from_bytes(head[29:33])
    if head[8:16] != b"\x00\x00\x00\rIHDR" or not is_whole or method:
        raise _Odd
    if bits not in _PNG_MODES.get(colour, ()):
        raise _Odd
    file.found = (width, height, False)
    return width, height, _png_orientation(file) in _SIDEWAYS


def _png_orientation(file: Peek) -> int:
    """EXIF may stand behind the pixels; once it is found, they end the search."""
    at, has_pixels, orientation = 33, False, 0
    while True:
        length, kind = struct.unpack(">I4s", file.take(at, 8))
        if kind == b"IEND" or (kind == b"IDAT" and orientation):
            break
        if kind == b"IDAT":
            has_pixels = True
        elif kind == b"eXIf" and not orientation:
            orientation = exif_orientation(file.take(at + 8, length))
            file.found = (*file.found[:2], orientation in _SIDEWAYS)
            if not orientation:
                raise _Odd
        elif not _is_plain(file, at, length, kind):
            raise _Odd
        at += 12 + length
    if not has_pixels and kind != b"IDAT":
        raise _Odd
    return orientation


def _is_plain(file: Peek, at: int, length: int, kind: bytes) -> bool:
    """Whether a chunk neither turns the picture nor stops Pillow."""
    if kind in _PNG_TEXT:
        return _is_plain_text(kind, file.take(at + 8, min(length, 84)))
    if kind == b"PLTE":
        chunk = file.take(at + 4, length + 8)
        return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:])
    is_ancillary = bool(kind[0] & 0x20)
    return is_ancillary and kind.isalpha() and kind not in _PNG_WITH_FRAMES and kind != b"eXIf"


def _is_plain_text(kind: bytes, start: bytes) -> bool:
    name, zero, rest = start.partition(b"\x00")
    if kind in (b"zTXt", b"iCCP") and (not zero or rest[:1] != b"\x00"):
        return False
    return bool(zero) and not name.startswith((b"Raw profile type", b"XML:com.adobe", b"exif"))


def _gif(file: Peek) -> Header:
    start, width, height, flags = struct.unpack("<6sHHB", file.take(0, 11))
    at = 13 + _colour_bytes(flags)
    while file.take(at, 1) == b"!":
        label, size = file.take(at + 1, 2)
        if not size or (label == 0xF9 and size < 4):
            raise _Odd
        at += 2
        while size:
            at += 1 + size
            (size,) = file.take(at, 1)
        at += 1
    mark, left, top, w, h, flags = struct.unpack("<BHHHHB", file.take(at, 10))
    is_whole = at + 10 + _colour_bytes(flags) < file.length
    if start not in (b"GIF87a", b"GIF89a") or mark != 0x2C or not is_whole:
        raise _Odd
    return max(width, left + w), max(height, top + h), False


def _colour_bytes(flags: int) -> int:
    """Bytes of the colour table that the flags of a GIF announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(file: Peek) -> Header:
    riff, name, kind, size = struct.unpack("<4xI4s4sI", file.take(0, 20))
    end = riff + 8
    if name != b"WEBP" or 20 + size + (size & 1) > end:
        raise _Odd
    if kind == b"VP8X":
        return _webp_extended(file, end)
    return (*_webp_frame(kind, file.take(20, 10), size), False)


def _webp_frame(kind: bytes, block: bytes, size: int) -> Size:
    """Size from the start of the coded picture, lossy or lossless."""
    if kind == b"VP8 " and block[3:6] == b"\x9d\x01\x2a":
        tag = int.from_bytes(block[:3], "little")
        is_key_frame, is_shown, version, part = not tag & 1, tag >> 4 & 1, tag >> 1 & 7, tag >> 5
        if is_key_frame and is_shown and version <= 3 and part < size:
            width, height = struct.unpack("<HH", block[6:])
            return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and block[0] == 0x2F and size >= 5:
        (bits,) = struct.unpack_from("<I", block, 1)
        if not bits >> 29:
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise _Odd


def _webp_extended(file: Peek, end: int) -> Header:
    """A still picture with alpha, a profile or EXIF; Pillow has to see animations and XMP."""
    head = file.take(0, 30)
    flags = head[20]
    if head[16:20] != b"\x0a\x00\x00\x00" or flags & ~(_WEBP_PROFILE | _WEBP_ALPHA | _WEBP_EXIF):
        raise _Odd
    width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    file.found = (width, height, False)
    at, orientation = 30, 0
    found: dict[bytes, Size] = {}
    while at < end:
        kind, size = struct.unpack("<4sI", file.take(at, 8))
        if at + 8 + size > end or kind in found or (kind == b"ALPH" and found):
            raise _Odd
        if kind in (b"VP8 ", b"VP8L"):
            found[kind] = _webp_frame(kind, file.take(at + 8, 10), size)
        elif kind == b"ALPH":
            found[kind] = (0, 0)
        elif kind == b"EXIF" and flags & _WEBP_EXIF:
            orientation = exif_orientation(file.take(at + 8, size))
        elif kind not in (b"ICCP", b"EXIF"):
            raise _Odd
        at += 8 + size + (size & 1)
    canvas = (width, height)
    if list(found.values()) not in ([canvas], [(0, 0), canvas]) or found.keys() >= _TWO_ALPHAS:
        raise _Odd
    return width, height, orientation in _SIDEWAYS


_WEBP_PROFILE, _WEBP_ALPHA, _WEBP_EXIF = 0x20, 0x10, 0x08
_TWO_ALPHAS = {b"ALPH", b"VP8L"}


def _bmp(file: Peek) -> Header:
    length, width, height, _, bits, compression = struct.unpack("<14xIiiHHI", file.take(0, 34))
    is_known = length in (40, 108, 124) and bits in (1, 4, 8, 16, 24, 32) and not compression
    if not is_known or 14 + length > file.length or height < -(1 << 24):
        raise _Odd
    (colours,) = struct.unpack("<I", file.take(46, 4))
    if bits <= 8 and colours > 256:
        raise _Odd
    return width, abs(height), False


_READERS: tuple[tuple[bytes, Callable[[Peek], Header]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF8", _gif),
    (b"RIFF", _webp),
    (b"BM", _bmp),
)
