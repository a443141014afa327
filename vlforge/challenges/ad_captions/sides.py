"""Which half of the data a picture belongs to: a picture and its copies are never parted."""

from __future__ import annotations

from array import array
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
_PIECE = -(-64 // (NEAR + 1))
"""Bits of a piece of a hash."""
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
    """What pictures look like, and whether one is near to any of them.

    Of 5 pieces of two hashes that differ in at most 4 bits one is equal, so that only
    pictures that share a piece are compared: a few hundred of a million.
    """

    def __init__(self) -> None:
        self._exact: set[int] = set()
        self._pieces: list[dict[int, array[int]]] = [{} for _ in range(NEAR + 1)]

    def add(self, appearance: int) -> None:
        """One more."""
        if appearance in self._exact:
            return
        self._exact.add(appearance)
        for piece, key in zip(self._pieces, _keys(appearance), strict=True):
            piece.setdefault(key, array("Q")).append(appearance)

    def has(self, appearance: int) -> bool:
        """Whether a picture that looks so is among them."""
        return appearance in self._exact or any(
            (other ^ appearance).bit_count() <= NEAR
            for piece, key in zip(self._pieces, _keys(appearance), strict=True)
            for other in piece.get(key, ())
        )


def _keys(appearance: int) -> list[int]:
    """A hash in pieces."""
    return [appearance >> (_PIECE * at) & ((1 << _PIECE) - 1) for at in range(NEAR + 1)]


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
