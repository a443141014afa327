"""Keeping the first of rows with the same pictures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.ops.base import Dedup, ExactMatcher, Matcher
from vlforge.ops.batch import Batch
from vlforge.ops.dedup.documents import text_digest
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.ops.dedup.hashes import Method

_HASH_BYTES = 8
METHODS = ("phash", "dhash", "whash", "ahash")


@dataclass(frozen=True, kw_only=True)
class ImageDeduplicator(Dedup):
    """Keep the first of rows whose pictures have the same perceptual hashes.

    A file that a row names twice counts once; rows without pictures stay.
    `consider_text` asks for the same text too. With `max_distance` above 0 two
    pictures are the same when their hashes differ in at most that many of 64
    bits (rows with several pictures: each pair of them). Truncated files count
    with what can be decoded of them.
    """

    method: str = "phash"
    consider_text: bool = False
    lowercase: bool = False
    ignore_non_character: bool = False
    max_distance: int = 0

    needs: ClassVar = Need.PIXELS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"{self.method!r} is no hash: take one of {', '.join(METHODS)}")
        if not 0 <= self.max_distance <= 32:
            raise RecipeError(f"image_deduplicator.max_distance is {self.max_distance}, not 0..32")

    def view(self, image: Image, is_truncated: bool) -> bytes:
        """The hash of one picture."""
        from vlforge.ops.dedup.hashes import image_hash

        method: Method = self.method  # type: ignore[assignment]
        return image_hash(image if image.mode == "RGB" else image.convert("RGB"), method)

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        texts = batch.texts(self.text_key)
        paths = [[f.path for f in files] for files in batch.image_files(self)]
        return [
            self._key(dict(zip(files, found, strict=True)), text)
            if isinstance(found, list)
            else found
            for files, found, text in zip(paths, batch.views(self), texts, strict=True)
        ]

    def matcher(self) -> Matcher:
        """Equality, or nearness where `max_distance` allows it."""
        return NearMatcher(self.max_distance) if self.max_distance else ExactMatcher()

    def _key(self, hashes: dict[str, bytes], text: str) -> bytes | None:
        """One byte for the number of pictures, their hashes, and the text's digest."""
        if not hashes:
            return None
        key = len(hashes).to_bytes(1 if len(hashes) < 256 else 4) + b"".join(hashes.values())
        if self.consider_text:
            key += text_digest(text, self.lowercase, self.ignore_non_character)
        return key


class NearMatcher:
    """Finds the earliest kept row whose hashes all lie within some bits of a row's.

    Hashes are cut into `bits + 1` pieces: two that differ in at most `bits`
    agree in one piece at least, so only rows that share a piece are compared.
    """

    def __init__(self, bits: int):
        self.bits = bits
        self._rows: list[tuple[bytes, str]] = []
        self._by_piece: dict[tuple[Any, ...], list[int]] = defaultdict(list)

    def find(self, key: bytes) -> str | None:
        """The uid of the first row within reach."""
        seen = {at for piece in self._pieces(key) for at in self._by_piece.get(piece, ())}
        for at in sorted(seen):
            if self._is_near(key, self._rows[at][0]):
                return self._rows[at][1]
        return None

    def add(self, key: bytes, uid: str) -> None:
        """Remember the row's hashes."""
        for piece in self._pieces(key):
            self._by_piece[piece].append(len(self._rows))
        self._rows.append((key, uid))

    def _pieces(self, key: bytes) -> list[tuple[Any, ...]]:
        """What two keys have to share one of: a piece of the first hash, and count and text."""
        count = key[0]
        text = key[1 + _HASH_BYTES * count :]
        first = int.from_bytes(key[1 : 1 + _HASH_BYTES])
        parts = self.bits + 1
        edges = [64 * at // parts for at in range(parts + 1)]
        pieces = pairwise(edges)
        return [
            (count, text, at, first >> low & ((1 << (high - low)) - 1))
            for at, (low, high) in enumerate(pieces)
        ]

    def _is_near(self, key: bytes, other: bytes) -> bool:
        from vlforge.ops.dedup.hashes import distance

        for at in range(1, 1 + _HASH_BYTES * key[0], _HASH_BYTES):
            if distance(key[at : at + _HASH_BYTES], other[at : at + _HASH_BYTES]) > self.bits:
                return False
        return True
