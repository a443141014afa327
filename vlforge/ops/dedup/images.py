"""Keeping the first of rows with the same pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.ops.base import Dedup, ExactMatcher, Matcher
from vlforge.ops.dedup.documents import text_digest
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.data.images import ImageFile
    from vlforge.ops.batch import Batch, Files
    from vlforge.ops.dedup.hashes import Method

METHODS = ("phash", "dhash", "whash", "ahash")
_HASH_BYTES = 8
_LARGEST_COUNT = 255


@dataclass(frozen=True, kw_only=True)
class ImageDeduplicator(Dedup):
    """Keep the first of rows whose pictures have the same perceptual hashes.

    A file that a row names twice counts once; rows without pictures stay.
    `consider_text` asks for the same text too (without case for `lowercase`,
    without white space, digits and punctuation for `ignore_non_character`).
    With `max_distance` above 0 two pictures are the same when their hashes
    differ in at most that many of 64 bits (rows with several pictures: each
    pair of them).

    `hash: exact` gives the bits of imagededup, Data-Juicer's library. `hash:
    fast` decodes jpegs in small and grey, in less than half the time; its bits
    are its own. Of 10,000 made jpegs, 7 % of them repeats (exact, re-encoded or
    shrunk), it kept 56 that `exact` drops and dropped 14 that `exact` keeps; a
    `max_distance` of 2 finds 53 of the 56.

    A cut-off or damaged file costs its row. With `compat: data_juicer` it
    counts with what can be decoded of it, and pictures from a row's bytes are
    hashed without being turned upright.
    """

    method: str = "phash"
    consider_text: bool = False
    lowercase: bool = False
    ignore_non_character: bool = False
    max_distance: int = 0
    hash: Literal["exact", "fast"] = "exact"

    needs: ClassVar = Need.PIXELS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RecipeError(f"{self.method!r} is no hash: take one of {', '.join(METHODS)}")
        if not 0 <= self.max_distance <= 32:
            raise RecipeError(f"max_distance is {self.max_distance}, not 0..32")
        if self.hash == "fast":  # decodes for itself, which no other operator could share
            object.__setattr__(self, "needs", Need.BYTES)

    def view(self, image: Image, is_truncated: bool) -> bytes:
        """The small grey picture that the hash is made of, a byte per pixel."""
        return self._shrunk(image if image.mode in ("RGB", "L") else image.convert("RGB"))

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        texts = batch.texts(self.text_key)
        hashes = iter(self._hashes(found := self._greys(batch)))
        keys: list[bytes | Drop | None] = []
        for greys, text in zip(found, texts, strict=True):
            if isinstance(greys, Drop):
                keys.append(greys)
            else:
                keys.append(self._key([next(hashes) for _ in greys], text))
        return keys

    def matcher(self) -> Matcher:
        """Equality, or nearness where `max_distance` allows it."""
        return NearMatcher(self.max_distance) if self.max_distance else ExactMatcher()

    def _grey_size(self) -> tuple[int, int]:
        from vlforge.ops.dedup.hashes import fast_grey_size, grey_size

        method: Method = self.method  # type: ignore[assignment]
        return fast_grey_size(method) if self.hash == "fast" else grey_size(method)

    def _greys(self, batch: Batch) -> list[list[bytes] | Drop]:
        """Per row one small grey picture of each file it names."""
        seen: dict[ImageFile, bytes] = {}

        def look(file: ImageFile) -> tuple[bytes]:
            if file not in seen:
                seen[file] = self._grey(file, batch.files)
            return (seen[file],)

        files = batch.image_files(self)
        (greys,) = batch.per_image(self, look, 1)
        return [
            found
            if isinstance(found, Drop)
            else list(dict(zip((f.path for f in row), found, strict=True)).values())
            for row, found in zip(files, greys, strict=True)
        ]

    def _grey(self, file: ImageFile, files: Files) -> bytes:
        from vlforge.ops.dedup import hashes_fast

        if self.hash == "fast":
            is_theirs = self.compat == "data_juicer"
            grey = hashes_fast.scaled_grey(file, self._grey_size(), is_theirs=is_theirs)
            return bytes(grey.tobytes())
        if files.viewers == (self,):  # no one else wants it decoded
            pixels = hashes_fast.plain_pixels(file.content())
            if pixels is not None:
                file.let_go()
                return self._shrunk(pixels)
        found: bytes = files.view(file, self)  # type: ignore[arg-type]
        return found

    def _shrunk(self, picture: Image | Any) -> bytes:
        from vlforge.ops.dedup.shrink import shrunk_grey

        return bytes(shrunk_grey(picture, self._grey_size()).tobytes())

    def _hashes(self, rows: Sequence[list[bytes] | Drop]) -> list[bytes]:
        """Of all pictures of all rows, in order."""
        greys = [grey for row in rows if isinstance(row, list) for grey in row]
        if not greys:
            return []
        import numpy as np

        from vlforge.ops.dedup.hashes import hashes_of

        width, height = self._grey_size()
        pixels = np.frombuffer(b"".join(greys), dtype=np.uint8).reshape(-1, height, width)
        method: Method = self.method  # type: ignore[assignment]
        return hashes_of(pixels, method)

    def _key(self, hashes: list[bytes], text: str) -> bytes | None:
        """The number of pictures, their hashes, and the text's digest."""
        if not hashes and not self.consider_text:
            return None
        key = bytes([min(len(hashes), _LARGEST_COUNT)]) + b"".join(hashes)
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
