"""Sizes from headers are Pillow's, for whole files and for damaged ones."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from PIL import ImageFile as PillowFiles

from tests.made_pictures import COMMON, ODD, encoded, mutated, noise
from vlforge.data.headers import BLOCK, Header, read_header
from vlforge.data.images import ImageError, ImageFile, header_size, load_upright

PICTURES = Path(__file__).parents[1] / "ops" / "pictures"
MUTATIONS = 500
STORED = {path.name: path.read_bytes() for path in sorted(PICTURES.iterdir())}
ALL = COMMON | ODD | STORED


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
def test_the_size_is_pillows(name):
    assert header_size(ALL[name]) == pillows(ALL[name])


@pytest.mark.parametrize("name", COMMON)
def test_common_files_need_no_pillow(name):
    assert ours_without_pillow(COMMON[name]) is not None


@pytest.mark.parametrize("name", ODD)
def test_what_only_pillow_understands_is_left_to_it(name):
    assert ours_without_pillow(ODD[name]) is None


def test_a_plain_jpeg_needs_its_first_block_only():
    content = COMMON["plain.jpg"]
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
    whole = header_size(COMMON[name])
    cuts = [COMMON[name][:end] for end in range(1000, len(COMMON[name]), 97)]
    assert {header_size(cut) for cut in cuts} == {whole}
    with pytest.raises(ImageError, match="cut off"):
        header_size(COMMON[name][:20])
