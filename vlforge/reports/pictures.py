"""Thumbnails inside a page: found, shrunk, and kept within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI. `src` is empty where `note` says why there is none.

    `width` and `height` are the original's, in pixels, as one looks at it.
    """

    src: str = ""
    width: int = 0
    height: int = 0
    note: str = ""

    @property
    def is_tiny(self) -> bool:
        """Whether enlarging should keep the pixels sharp."""
        return 0 < max(self.width, self.height) <= 128


@dataclass
class Thumbnails:
    """Makes thumbnails until `budget` bytes are spent, then says so instead.

    A picture asked for twice is paid for twice, for each use carries its own data.
    """

    budget: int
    side: int = 240
    spent: int = 0
    known: dict[Path, Thumbnail] = field(default_factory=dict)

    def make(self, image: str | None, roots: Sequence[Path]) -> Thumbnail:
        """The thumbnail of `image`, looked up in `roots` where its path is relative."""
        if not image:
            return Thumbnail(note="no picture")
        path = find(image, roots)
        if path is None:
            return Thumbnail(note="file missing")
        if path not in self.known:
            self.known[path] = _shrink(path, self.side if self.spent < self.budget / 2 else 128)
        thumbnail = self.known[path]
        if self.spent + len(thumbnail.src) > self.budget:
            return Thumbnail(
                "", thumbnail.width, thumbnail.height, "left out to keep the page small"
            )
        self.spent += len(thumbnail.src)
        return thumbnail


def find(image: str, roots: Sequence[Path]) -> Path | None:
    """The file `image` names: absolute, or below the first root that has it."""
    candidates = [Path(image)] if Path(image).is_absolute() else [root / image for root in roots]
    for path in candidates:
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):
            continue
    return None


def _shrink(path: Path, side: int) -> Thumbnail:
    """A WebP no larger than `side`, as a model sees the picture; a broken file becomes a note."""
    from PIL import Image

    from vlforge.data.images import load_rgb
    from vlforge.types import DataError

    try:
        small = load_rgb(path)
    except DataError:
        return Thumbnail(note="cannot be read")
    width, height = small.size
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=72, method=4)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{data}", width, height)
