"""Opens pictures before a model wants them, as far as can be done without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vlforge.data.images import load_rgb
from vlforge.types import DataError, ModelError, Sample

if TYPE_CHECKING:
    import numpy as np

    from vlforge.inference.load import Loaded

Item = TypeVar("Item")


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
    found = []
    for sample, images in zip(samples, opened(loaded, [s.images for s in samples]), strict=True):
        if isinstance(images, Exception):
            raise images
        found.append(replace(sample, images=images))
    return found


def opened(
    loaded: Loaded, rows: Sequence[Sequence[Any]]
) -> list[tuple[Any, ...] | DataError | ModelError | OSError]:
    """Each row's pictures, opened, or why one of them cannot be; each file is opened once."""
    known: dict[Any, Any] = {}
    found: list[tuple[Any, ...] | DataError | ModelError | OSError] = []
    for images in rows:
        try:
            found.append(tuple(_known(loaded, image, known) for image in images))
        except (DataError, ModelError, OSError) as error:
            found.append(error)
    return found


def _known(loaded: Loaded, path: Any, known: dict[Any, Any]) -> Any:
    if not isinstance(path, str | bytes | Path):
        return path  # opened before
    if path not in known:
        known[path] = _opened(loaded, path)
    return known[path]


def _opened(loaded: Loaded, path: Any) -> Any:
    picture = load_rgb(path)
    # A native model's processor takes pictures, text and their places all at once.
    if loaded.kind == "native":
        return picture
    return Fitted(loaded.processor.fit(picture), picture.size)


class Ahead(Generic[Item]):
    """Items that a thread makes ready: those of the next group while this one is worked on.

    Without `prepare` they are ready as they are.
    """

    def __init__(self, items: Sequence[Item], prepare: Callable[[list[Item]], list[Item]] | None):
        self._items, self._prepare = items, prepare
        self._pool = ThreadPoolExecutor(1, "pictures") if prepare else None
        self._begun: dict[int, tuple[Future[list[Item]], int]] = {}

    def ready(self, group: Sequence[int], after: Sequence[int]) -> list[Item]:
        """The items at these places, made ready; those at `after` are begun."""
        if self._pool is None:
            return [self._items[place] for place in group]
        self._begin(group)
        made = []
        for place in group:
            future, at = self._begun[place]
            made.append(future.result()[at])
        self._begin(after)
        return made

    def forget(self, group: Sequence[int]) -> None:
        """Let go of items that were worked on."""
        for place in group:
            self._begun.pop(place, None)

    def close(self) -> None:
        """Begin nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, places: Sequence[int]) -> None:
        new = [place for place in places if place not in self._begun]
        if new and self._pool is not None and self._prepare is not None:
            future = self._pool.submit(self._prepare, [self._items[place] for place in new])
            self._begun |= {place: (future, at) for at, place in enumerate(new)}
