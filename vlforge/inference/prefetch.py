"""Opens pictures before a model wants them, as far as can be done without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlforge.data.images import load_rgb
from vlforge.types import Sample

if TYPE_CHECKING:
    import numpy as np

    from vlforge.inference.load import Loaded


@dataclass(frozen=True, eq=False)
class Fitted:
    """A picture as its processor fits it, uint8, and the size that it had."""

    pixels: np.ndarray
    size: tuple[int, int]


def with_pictures(loaded: Loaded, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with opened pictures in place of paths; each path is opened once.

    Raises:
        DataError: one that cannot be read.
    """
    paths = dict.fromkeys(image for sample in samples for image in sample.images)
    opened: dict[Any, Any] = {path: _opened(loaded, path) for path in paths}
    return [replace(s, images=tuple(opened[image] for image in s.images)) for s in samples]


def _opened(loaded: Loaded, path: Any) -> Any:
    picture = load_rgb(path)
    # A native model's processor takes pictures, text and their places all at once.
    if loaded.kind == "native":
        return picture
    return Fitted(loaded.processor.fit(picture), picture.size)
