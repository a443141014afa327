"""Small pictures for tests, made by Pillow."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def picture(seed: int = 0, kind: str = "JPEG", size: tuple[int, int] = (12, 8)) -> bytes:
    """An encoded picture of one colour that `seed` decides."""
    colour = (seed * 37 % 256, seed * 91 % 256, seed * 17 % 256)
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def bomb(side: int = 100_000) -> bytes:
    """A png of a few bytes that claims `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
