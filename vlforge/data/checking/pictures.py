"""What can be seen of a picture: whether it is there, sound, upright, and what it equals."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from vlforge.data.images import ImageError, ImageFile, to_rgb
from vlforge.data.records import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

Hash = Callable[["Image"], bytes]
"""8 bytes of an upright RGB picture that change little when it changes little."""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
PLAIN_MODES = frozenset(("RGB", "L"))


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one picture; `kind` names what is wrong, "" where nothing is."""

    kind: str = ""
    said: str = ""
    content: int = 0
    """Hash of the file's content."""
    hash: int | None = None
    """Perceptual hash, where it was asked for."""
    is_turned: bool = False
    mode: str = ""
    """Of the pixels, where they were decoded."""


@dataclass(frozen=True)
class Looking:
    """How closely pictures are looked at; a header is always read."""

    reads: bool = True
    """Read whole files and hash them."""
    decodes: bool = False
    hash: Hash | None = None


def look_at(picture: Picture, how: Looking) -> Look:
    """One picture; whatever is wrong with it comes back as words."""
    if is_link(picture):
        return Look("linked_image", picture.path)
    name = picture.place if picture.content is None else picture.path or "in the data"
    file = ImageFile(name, picture.content, whole=how.reads)
    try:
        size = file.size()
        is_turned = size != file.stored_size()
        content = key_of(file.content()) if how.reads else 0
        if not (how.decodes or how.hash):
            return Look(content=content, is_turned=is_turned)
        decoded = file.picture()
        found = how.hash(to_rgb(decoded.upright)) if how.hash else None
        number = None if found is None else int.from_bytes(found)
        return Look("", "", content, number, is_turned, decoded.stored.mode)
    except ImageError as error:
        if error.reason != "missing image":
            return Look("broken_image", str(error))
        other = other_extension(name)
        there = f"; {os.path.basename(other)} is there" if other else ""
        return Look("missing_image", name + there)


def is_link(picture: Picture) -> bool:
    """Whether the picture is an address on the web."""
    return picture.content is None and picture.path[:8].lower().startswith(("http://", "https://"))


def other_extension(place: str) -> str:
    """The one file that differs from `place` in its extension only; "" for none or several."""
    stem, own = os.path.splitext(place)
    found = []
    for suffix in EXTENSIONS:
        for cased in (suffix, suffix.upper()):
            if cased != own and os.path.isfile(stem + cased):
                found.append(stem + cased)
    # A file system that does not tell cases apart shows one file under two names.
    if len(found) == 2 and found[0].lower() == found[1].lower() and os.path.samefile(*found):
        return found[0]
    return found[0] if len(found) == 1 else ""


def key_of(data: bytes) -> int:
    """A 64-bit key of some bytes."""
    return int.from_bytes(blake2b(data, digest_size=8).digest())
