"""Which half of the data a picture belongs to: a picture and its copies are never parted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeVar

from vlforge.data.machine import cores
from vlforge.types import DataError

Side = Literal["train", "val"]
Item = TypeVar("Item")
NEAR = 4
"""Bits of 64 in which the looks of a picture and of its copy may differ: another size or
compression of a photo changes 0 to 4, two photos differ in 18 or more."""
_FIRST = 256
_AHEAD = 64


class Look(NamedTuple):
    """A picture as it is compared: by its bytes, and by what it looks like."""

    content: bytes
    appearance: int


@dataclass
class Sides:
    """Deals pictures out, one of every `val_every` new ones to val; copies follow the first.

    What equals, or looks like, an earlier picture goes where that one went. What looks
    like pictures of both halves, which do not look like each other, is in neither.
    """

    val_every: int
    fresh: int = 0
    """Pictures that were no copies."""
    copies: int = 0
    between: int = 0
    """Pictures that are in neither half."""
    _seen: dict[bytes, Side | None] = field(default_factory=dict)
    _train: Looks = field(default_factory=lambda: Looks())
    _val: Looks = field(default_factory=lambda: Looks())

    def of(self, look: Look) -> Side | None:
        """The half of a picture; None where it is a copy of pictures in both."""
        if look.content in self._seen:
            self.copies += 1
            side = self._seen[look.content]
        else:
            side = self._new(look.appearance)
            self._seen[look.content] = side
            if side is not None:
                (self._val if side == "val" else self._train).add(look.appearance)
        self.between += side is None
        return side

    def _new(self, appearance: int) -> Side | None:
        in_val, in_train = self._val.has(appearance), self._train.has(appearance)
        if in_val or in_train:
            self.copies += 1
            if in_val and in_train:
                return None
            return "val" if in_val else "train"
        self.fresh += 1
        return "val" if (self.fresh - 1) % self.val_every == 0 else "train"


class Looks:
    """What pictures look like, and whether one is near to any of them."""

    def __init__(self) -> None:
        import numpy as np

        self._all = np.zeros(_FIRST, dtype=np.uint64)
        self._count = 0
        self._exact: set[int] = set()

    def add(self, appearance: int) -> None:
        """One more."""
        import numpy as np

        if appearance in self._exact:
            return
        self._exact.add(appearance)
        if self._count == len(self._all):
            self._all = np.concatenate([self._all, np.zeros_like(self._all)])
        self._all[self._count] = appearance
        self._count += 1

    def has(self, appearance: int) -> bool:
        """Whether a picture that looks so is among them."""
        import numpy as np

        if appearance in self._exact:
            return True
        apart = np.bitwise_count(self._all[: self._count] ^ np.uint64(appearance))
        return bool((apart <= NEAR).any())


def look_at(content: bytes) -> Look:
    """What a picture is compared by.

    Raises:
        DataError: it cannot be decoded, or it is cut off.
    """
    from vlforge.data.images import ImageFile, to_rgb
    from vlforge.ops.dedup.hashes import image_hash

    shown = to_rgb(ImageFile("in the data", content).picture().upright)
    key = blake2b(content, digest_size=16).digest()
    return Look(key, int.from_bytes(image_hash(shown, "phash")))


def looked_at(
    items: Iterable[Item], content: Callable[[Item], bytes | None]
) -> Iterator[tuple[Item, Look | DataError | None]]:
    """Each item in its order with its picture's look, by several threads; None for no picture."""

    def look(item: Item) -> Look | DataError | None:
        given = content(item)
        try:
            return None if given is None else look_at(given)
        except DataError as error:
            return error

    waiting: deque[tuple[Item, Future[Look | DataError | None]]] = deque()
    with ThreadPoolExecutor(cores(), "looks") as pool:
        for item in items:
            waiting.append((item, pool.submit(look, item)))
            if len(waiting) > _AHEAD:
                first, found = waiting.popleft()
                yield first, found.result()
        for first, found in waiting:
            yield first, found.result()
