"""Pictures that visitors bring: looked at by their header first, decoded once, shown anew."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from vlforge.data.headers import begins_as_picture
from vlforge.data.images import ImageError, ImageFile
from vlforge.serving.viewer.pictures import encoded
from vlforge.serving.web.rooms import Bounds, Kept, Refused

SHOWN_SIDE = 1280
"""Longest side in pixels of a picture on the page; the model gets the file as it came."""
KNOWN = "JPEG, PNG, WebP, GIF and BMP are taken"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
_ENDINGS = {
    b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp",
}  # fmt: skip
_WHY = {
    "truncated image": "is cut off or damaged; send it again",
    "unreadable image": f"is no picture that can be read; {KNOWN}",
}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain_name(name: str) -> str:
    """A file's name as a page may show it: no folders, nothing that moves other text."""
    name = _UNPRINTABLE.sub("", name.replace("\\", "/").rpartition("/")[2]).strip()
    return name[-100:] or "picture"


def look(path: Path, number: int, name: str, bounds: Bounds) -> Kept:
    """A picture that was sent, once it is known to be one.

    Raises:
        Refused: it is none, cut off, or has too many pixels; says which file.
    """
    content = path.read_bytes()
    if not begins_as_picture(content):
        raise Refused(415, f"{name} is no picture; {KNOWN}")
    file = ImageFile(name, content)
    try:
        width, height = file.size()
        if width * height > bounds.pixels:
            most = f"{bounds.pixels // 1_000_000} million pixels"
            raise Refused(413, f"{name} has {width} × {height} pixels; send one of at most {most}")
        small, kind = encoded(file.picture().upright, SHOWN_SIDE)
    except ImageError as error:
        raise Refused(415, f"{name} {_WHY.get(error.reason, error.reason)}") from None
    shown = path.with_suffix(".shown")
    shown.write_bytes(small)
    digest = hashlib.sha256(content).hexdigest()
    return Kept(number, name, path, shown, kind, width, height, digest, len(content))


def saved_name(kept: Kept) -> str:
    """A file name for a picture that is given back, safe on every system."""
    head = kept.path.read_bytes()[:4]
    ending = next((end for start, end in _ENDINGS.items() if head.startswith(start)), ".img")
    stem = re.sub(r"[^\w-]+", "_", Path(kept.name).stem).strip("_") or "picture"
    return f"{kept.number:02d}-{stem[:60]}{ending}"
