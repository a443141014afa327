"""Small pictures in every format, whole and damaged, the same in every run."""

from __future__ import annotations

import io
import random

from PIL import Image

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
RESOURCES = b"Photoshop 3.0\x008BIM\x03\xed\x00\x00\x00\x00\x00\x10" + bytes(16)


def noise(size: tuple[int, int] = (70, 50), mode: str = "RGB", seed: int = 5) -> Image.Image:
    """A picture that compresses badly."""
    dots = random.Random(seed).randbytes(3 * size[0] * size[1])
    return Image.frombytes("RGB", size, dots).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture's file content."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int | None = 6) -> Image.Exif:
    """EXIF as a camera writes it: texts before the orientation."""
    block = Image.Exif()
    block[0x010F] = "a maker with a long name"
    if orientation is not None:
        block[0x0112] = orientation
    block[0x8298] = "somebody"
    return block


def with_segment(content: bytes, kind: int, block: bytes) -> bytes:
    """A jpeg with one more segment at its start."""
    return content[:2] + bytes([0xFF, kind]) + (len(block) + 2).to_bytes(2) + block + content[2:]


COMMON = {
    "plain.jpg": encoded(noise(), "JPEG"),
    "progressive.jpg": encoded(noise(), "JPEG", progressive=True, optimize=True),
    "grey.jpg": encoded(noise(mode="L"), "JPEG"),
    "cmyk.jpg": encoded(noise(mode="CMYK"), "JPEG"),
    "turned.jpg": encoded(noise(), "JPEG", exif=exif(), comment=b"said"),
    "unturned.jpg": encoded(noise(), "JPEG", exif=exif(None)),
    "profile.jpg": encoded(noise(), "JPEG", icc_profile=b"y" * 9000, exif=exif(8)),
    "resources.jpg": with_segment(encoded(noise(), "JPEG"), 0xED, RESOURCES),
    "plain.png": encoded(noise(), "PNG"),
    "palette.png": encoded(noise().quantize(), "PNG", transparency=3),
    "turned.png": encoded(noise(), "PNG", exif=exif()),
    "text.png": encoded(noise(), "PNG", icc_profile=b"y" * 500, dpi=(72, 72)),
    "plain.gif": encoded(noise(), "GIF", comment=b"said" * 100),
    "moving.gif": encoded(noise(), "GIF", save_all=True, append_images=[noise(seed=6)], loop=0),
    "lossy.webp": encoded(noise(), "WEBP"),
    "lossless.webp": encoded(noise((300, 9)), "WEBP", lossless=True),
    "turned.webp": encoded(noise(), "WEBP", exif=exif()),
    "alpha.webp": encoded(noise(mode="RGBA"), "WEBP", icc_profile=b"y" * 100),
    "plain.bmp": encoded(noise(), "BMP"),
    "palette.bmp": encoded(noise().quantize(), "BMP"),
}
"""Files whose header is read without Pillow."""
ODD = {
    "xmp.jpg": encoded(noise(), "JPEG", xmp=XMP),
    "xmp.webp": encoded(noise(), "WEBP", xmp=XMP),
    "two_exif.jpg": with_segment(
        encoded(noise(), "JPEG", exif=exif()), 0xE1, b"Exif\x00\x00" + exif(1).tobytes()[6:]
    ),
    "moving.webp": encoded(noise(), "WEBP", save_all=True, append_images=[noise(seed=6)]),
    "moving.png": encoded(noise(), "PNG", save_all=True, append_images=[noise(seed=6)]),
    "plain.tiff": encoded(noise(), "TIFF"),
    "turned.tiff": encoded(noise(), "TIFF", exif=exif()),
}
"""Files that only Pillow understands."""


def mutated(content: bytes, pick: random.Random) -> bytes:
    """The file cut off, or with some bytes changed or left out, mostly in its header."""
    changed = bytearray(content)
    if pick.random() < 0.3:
        return content[: pick.randrange(1, pick.choice([700, len(content) + 1]))]
    zone = min(len(changed), pick.choice([64, 700, len(changed)]))
    for _ in range(pick.choice([1, 1, 2, 8])):
        changed[pick.randrange(zone)] = pick.randrange(256)
    if pick.random() < 0.1:
        del changed[pick.randrange(zone) :][: pick.randrange(1, 20)]
    return bytes(changed)
