"""Pictures as every program sees them alike: EXIF orientation applied, RGB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from vlforge.data.images import ImageError, ImageFile, to_rgb

_QUALITY = 95


class Baked(NamedTuple):
    """A picture written anew: what was done, its content and the suffix that fits it."""

    change: str
    content: bytes
    suffix: str


def bake(content: bytes) -> Baked | None:
    """The picture upright and in RGB; None where it is both already, or cannot be read.

    A jpeg stays one; anything else becomes a png, which loses nothing.
    """
    from PIL import Image

    try:
        picture = ImageFile("<bytes>", content).picture()
    except ImageError:
        return None
    stored = picture.stored
    is_turned = picture.upright is not stored
    if stored.mode == "RGB" and not is_turned:
        return None
    is_jpeg = isinstance(stored, Image.Image) and stored.format == "JPEG"
    told = [f"EXIF orientation of {stored.size[0]} x {stored.size[1]} pixels"] if is_turned else []
    if stored.mode != "RGB":
        told.append(f"mode {stored.mode}")
    buffer = io.BytesIO()
    upright = to_rgb(picture.upright)
    upright.info.pop("exif", None)
    profile = stored.info.get("icc_profile") if stored.mode == "RGB" else None
    if is_jpeg:
        upright.save(buffer, "JPEG", quality=_QUALITY, subsampling=0, icc_profile=profile)
    else:
        upright.save(buffer, "PNG", icc_profile=profile)
    return Baked(", ".join(told), buffer.getvalue(), ".jpg" if is_jpeg else ".png")


def bake_file(path: Path) -> tuple[str, Path]:
    """Bake the file at `path`, which is a copy; what was done ("" for nothing), and its new name.

    Only a suffix that says another format changes.
    """
    baked = bake(path.read_bytes())
    if baked is None:
        return "", path
    fits = path.suffix.lower() in ((".jpg", ".jpeg") if baked.suffix == ".jpg" else (".png",))
    target = path if fits else path.with_name(f"{path.name}{baked.suffix}")
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(baked.content)
    part.replace(target)
    if target != path:
        path.unlink()
    return baked.change, target
