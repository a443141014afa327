"""What cameras note in a picture, in the words of the column `exif` that img2dataset writes."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

_PARTS = ((0x8769, "EXIF"), (0x8825, "GPS"), (0xA005, "Interoperability"))
_TURNS = (
    "", "Horizontal (normal)", "Mirrored horizontal", "Rotated 180", "Mirrored vertical",
    "Mirrored horizontal then rotated 90 CCW", "Rotated 90 CW",
    "Mirrored horizontal then rotated 90 CW", "Rotated 90 CCW",
)  # fmt: skip
_UNITS = ("", "Not Absolute", "Pixels/Inch", "Pixels/Centimeter")
_SAID = {"Orientation": _TURNS, "ResolutionUnit": _UNITS}
_LONGEST = 2000
_MAKER_NOTE = 0x927C


def exif_json(content: bytes) -> str:
    """A JSON object of names such as `Image Make` and their values as text; `{}` for none.

    Parts that point at other parts and the maker's own notes are left out.
    """
    if b"Exif" not in content[:65536] and b"eXIf" not in content and content[:2] not in _TIFF:
        return "{}"
    from PIL import ExifTags, Image

    found: dict[str, str] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif = Image.open(io.BytesIO(content)).getexif()
            _add(found, "Image", dict(exif), ExifTags.TAGS)
            for pointer, name in _PARTS:
                tags = ExifTags.GPSTAGS if name == "GPS" else ExifTags.TAGS
                _add(found, name, exif.get_ifd(pointer), tags)
    except Exception:  # Damaged notes of a picture that was decoded: what could be read counts.
        pass
    return json.dumps(found)


_TIFF = (b"II", b"MM")


def _add(found: dict[str, str], part: str, entries: Any, tags: Any) -> None:
    for tag, value in entries.items():
        if tag == _MAKER_NOTE:
            continue
        name = tags.get(tag, f"Tag 0x{tag:04X}")
        found[f"{part} {name}"] = _text(name, value)[:_LONGEST]


def _text(name: str, value: Any) -> str:
    """The value as img2dataset's reader prints it: 1/250, [1, 2], Rotated 90 CW."""
    said = _SAID.get(name)
    if said and isinstance(value, int) and 0 < value < len(said):
        return said[value]
    if isinstance(value, bytes):
        is_text = all(32 <= byte < 127 for byte in value)
        return value.decode("ascii") if is_text else str(list(value[:50]))
    if isinstance(value, tuple):
        return f"[{', '.join(_text('', item) for item in value)}]"
    if hasattr(value, "numerator") and hasattr(value, "denominator"):
        top, bottom = value.numerator, value.denominator
        return str(top) if bottom == 1 else f"{top}/{bottom}"
    return str(value).strip().strip("\x00")
