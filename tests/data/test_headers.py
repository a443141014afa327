"""Sizes from headers are Pillow's, for whole files and for damaged ones."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from PIL import ImageFile as PillowFiles

from vlforge.data.headers import BLOCK, Header, read_header
from vlforge.data.images import ImageError, ImageFile, header_size, load_upright

PICTURES = Path(__file__).parents[1] / "ops" / "pictures"
MUTATIONS = 500


def noise(size=(70, 50), mode="RGB", seed=5) -> Image.Image:
    """A picture that compresses badly."""
    dots = random.Random(seed).randbytes(3 * size[0] * size[1])
    return Image.frombytes("RGB", size, dots).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
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


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
RESOURCES = b"Photoshop 3.0\x008BIM\x03\xed\x00\x00\x00\x00\x00\x10" + bytes(16)


def with_segment(content: bytes, kind: int, block: bytes) -> bytes:
    """A jpeg with one more segment at its start."""
    return content[:2] + bytes([0xFF, kind]) + (len(block) + 2).to_bytes(2) + block + content[2:]


MADE = {
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
JUDGED_BY_PILLOW = {
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
STORED = {path.name: path.read_bytes() for path in sorted(PICTURES.iterdir())}
ALL = MADE | JUDGED_BY_PILLOW | STORED


def ours_without_pillow(content: bytes) -> Header | None:
    """The reader's answer, the rest of the file given piece by piece."""
    return read_header(content[:BLOCK], len(content), lambda at, n: content[at : at + n])


def pillows(content: bytes) -> tuple[int, int] | str:
    """Pillow's upright size of a file, cut off or not; or how far it came."""
    PillowFiles.LOAD_TRUNCATED_IMAGES = True
    try:
        try:
            image = Image.open(io.BytesIO(content))
        except Exception:
            return "does not open"
        try:
            return ImageOps.exif_transpose(image).size
        except Exception:
            return "does not load"
    finally:
        PillowFiles.LOAD_TRUNCATED_IMAGES = False


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
def test_the_size_is_pillows(name):
    assert header_size(ALL[name]) == pillows(ALL[name])


@pytest.mark.parametrize("name", MADE)
def test_common_files_need_no_pillow(name):
    assert ours_without_pillow(MADE[name]) is not None


@pytest.mark.parametrize("name", JUDGED_BY_PILLOW)
def test_what_only_pillow_understands_is_left_to_it(name):
    assert ours_without_pillow(JUDGED_BY_PILLOW[name]) is None


def test_a_plain_jpeg_needs_its_first_block_only():
    content = MADE["plain.jpg"]
    assert read_header(content[:BLOCK], len(content), pytest.fail) == (70, 50, False)


def test_long_blocks_before_the_frame_are_skipped():
    content = encoded(noise(), "JPEG", comment=b"x" * 60_000, icc_profile=b"y" * 200_000)
    assert ours_without_pillow(content) == (70, 50, False)


def ours(path: Path) -> tuple[int, int] | str:
    """Our size of a file, or how far we came."""
    try:
        return ImageFile(str(path)).size()
    except ImageError as error:
        return "does not open" if path.name in str(error) else "names no file"


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_have_pillows_size_or_none(tmp_path):
    pick = random.Random(20)
    path = tmp_path / "picture"
    differ, refused = [], 0
    for number in range(MUTATIONS):
        name = pick.choice(sorted(ALL))
        content = mutated(ALL[name], pick)
        path.write_bytes(content)
        mine, theirs = ours(path), pillows(content)
        refused += isinstance(mine, str)
        is_usable = isinstance(theirs, tuple)
        if mine != theirs and (is_usable or isinstance(mine, str) or not is_refused(content)):
            differ.append((number, name, mine, theirs))
    assert not differ
    assert 0.1 * MUTATIONS < refused < 0.5 * MUTATIONS


def is_refused(content: bytes) -> bool:
    """Whether decoding gives an error even where what there is would do."""
    try:
        load_upright(content, truncated="fill")
    except ImageError:
        return True
    return False


@pytest.mark.parametrize(
    "name",
    ["plain.jpg", "turned.jpg", "turned.png", "plain.bmp", "lossy.webp", "alpha.webp"],
)
def test_a_file_cut_behind_its_size_still_has_it(name):
    whole = header_size(MADE[name])
    cuts = [MADE[name][:end] for end in range(1000, len(MADE[name]), 97)]
    assert {header_size(cut) for cut in cuts} == {whole}
    with pytest.raises(ImageError, match="cut off"):
        header_size(MADE[name][:20])
