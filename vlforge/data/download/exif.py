"""What cameras note in a picture, in the words of the column `exif` that img2dataset writes."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from typing import Any

_PARTS = ((0x8769, "EXIF"), (0x8825, "GPS"), (0xA005, "Interoperability"))
_TURNS = (
    "Horizontal (normal)", "Mirrored horizontal", "Rotated 180", "Mirrored vertical",
    "Mirrored horizontal then rotated 90 CCW", "Rotated 90 CW",
    "Mirrored horizontal then rotated 90 CW", "Rotated 90 CCW",
)  # fmt: skip
_PROGRAMS = (
    "Unidentified", "Manual", "Program Normal", "Aperture Priority", "Shutter Priority",
    "Program Creative", "Program Action", "Portrait Mode", "Landscape Mode",
)  # fmt: skip
_METERING = (
    "Unidentified", "Average", "CenterWeightedAverage", "Spot", "MultiSpot", "Pattern", "Partial",
)  # fmt: skip
_FLASH = {
    0: "Flash did not fire", 1: "Flash fired", 9: "Flash fired, compulsory flash mode",
    16: "Flash did not fire, compulsory flash mode", 24: "Flash did not fire, auto mode",
    25: "Flash fired, auto mode", 32: "No flash function",
}  # fmt: skip
_STRENGTHS = dict(enumerate(("Normal", "Soft", "Hard")))
_SAID: dict[str, dict[int, str]] = {
    "Orientation": dict(enumerate(_TURNS, 1)),
    "ResolutionUnit": dict(enumerate(("Not Absolute", "Pixels/Inch", "Pixels/Centimeter"), 1)),
    "YCbCrPositioning": {1: "Centered", 2: "Co-sited"},
    "ExposureProgram": dict(enumerate(_PROGRAMS)),
    "MeteringMode": dict(enumerate(_METERING)),
    "Flash": _FLASH,
    "ColorSpace": {1: "sRGB", 2: "Adobe RGB", 65535: "Uncalibrated"},
    "CustomRendered": {0: "Normal", 1: "Custom"},
    "ExposureMode": dict(enumerate(("Auto Exposure", "Manual Exposure", "Auto Bracket"))),
    "WhiteBalance": {0: "Auto", 1: "Manual"},
    "SceneCaptureType": dict(enumerate(("Standard", "Landscape", "Portrait", "Night"))),
    "Contrast": _STRENGTHS,
    "Saturation": _STRENGTHS,
    "Sharpness": _STRENGTHS,
}
"""Names of common values; of others the number is given."""
_RENAMED = {"ExifImageHeight": "ExifImageLength"}
_PARTS_OF_COLOUR = ("", "Y", "Cb", "Cr", "Red", "Green", "Blue")
_LONGEST = 2000
_LEFT_OUT = frozenset({0x927C, 0x9286})
"""The maker's notes and the user's comment."""


def exif_json(content: bytes) -> str:
    """A JSON object of names such as `Image Make` and their values as text; `{}` for none.

    The maker's own notes and the user's comment are left out.
    """
    if b"Exif" not in content[:65536] and b"eXIf" not in content and content[:2] not in _TIFF:
        return "{}"
    from PIL import ExifTags, Image

    found: dict[str, str] = {}
    try:
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
        if tag in _LEFT_OUT:
            continue
        name = tags.get(tag, f"Tag 0x{tag:04X}")
        name = _RENAMED.get(name, name)
        found[f"{part} {name}"] = _text(name, value)[:_LONGEST]


def _text(name: str, value: Any) -> str:
    """The value as img2dataset's reader prints it: 1/250, [1, 2], Rotated 90 CW."""
    if isinstance(value, int):
        return _SAID.get(name, {}).get(value, str(value))
    if isinstance(value, bytes):
        return _bytes_text(name, value)
    if isinstance(value, tuple):
        return f"[{', '.join(_text('', item) for item in value)}]"
    if hasattr(value, "numerator") and hasattr(value, "denominator"):
        top, bottom = int(value.numerator), int(value.denominator)
        return str(Fraction(top, bottom)) if bottom else f"{top}/{bottom}"
    return str(value).strip().strip("\x00")


def _bytes_text(name: str, value: bytes) -> str:
    if name == "ComponentsConfiguration" and max(value, default=9) < len(_PARTS_OF_COLOUR):
        return "".join(_PARTS_OF_COLOUR[byte] for byte in value)
    if value and all(32 <= byte < 127 for byte in value):
        return value.decode("ascii")
    return str(value[0]) if len(value) == 1 else str(list(value[:50]))
