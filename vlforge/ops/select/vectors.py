"""Rows as embeddings: what selectors and deduplicators keep of each row, and read again.

A key is what was drawn for the row, its quality and its cost (25 bytes), then its unit
vector in half precision. So a million rows of 512 numbers are a file of 1 GB, read in
pieces; and the last bits, which depend on how a model's batches fell, are rounded away.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlforge.types import Drop

if TYPE_CHECKING:
    from vlforge.ops.base import Operator
    from vlforge.ops.batch import Batch

By = Literal["images", "texts", "both"]
ROWS_AT_ONCE = 4096
IN_MEMORY = 1 << 30
"""Bytes of vectors that are kept in memory between looks; more are read again each time."""

_HEAD = struct.Struct("<QddB")
_DRAWN, _QUALITY, _COST, _HAS = (slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 25))


def drawn(seed: int, op: str, uid: str) -> int:
    """64 bits for one row: what chance decides about it, whatever its neighbours are."""
    told = f"{seed}:{op}:{uid}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest())


def row_key(number: int, quality: float | None, cost: float | None, vector: Any = None) -> bytes:
    """The key of one row; `vector` is None where there is nothing to compare."""
    head = _HEAD.pack(
        number,
        math.nan if quality is None else quality,
        math.nan if cost is None else cost,
        vector is not None,
    )
    return head if vector is None else head + np.asarray(vector, np.float16).tobytes()


def padded(keys: Sequence[bytes | Drop], width: int) -> list[bytes | Drop]:
    """All keys as long as one with a vector of `width` numbers."""
    size = _HEAD.size + 2 * width
    return [key if isinstance(key, Drop) else key.ljust(size, b"\0") for key in keys]


def embedded_rows(
    op: Operator, batch: Batch, path: str, by: By
) -> tuple[list[Any | Drop | None], int]:
    """One unit vector per row by the model at `path`, and how many numbers it has.

    Of several pictures the mean counts. `both` sets picture and text side by side, so
    that the cosine of two rows is the mean of both cosines. None: the row has neither.
    """
    parts: list[list[Any | Drop | None]] = []
    if by != "texts":
        parts.append([_mean(row) for row in batch.embedded_images(op, path)])
    if by != "images":
        parts.append(_text_vectors(op, batch, path))
    width = _width(parts, op, batch, path, by)
    return [_joined(row, width) for row in zip(*parts, strict=True)], width * len(parts)


def _mean(vectors: list[Any] | Drop) -> Any | Drop | None:
    if isinstance(vectors, Drop) or not vectors:
        return vectors or None
    return np.mean(np.asarray(vectors, np.float32), axis=0)


def _text_vectors(op: Operator, batch: Batch, path: str) -> list[Any | Drop | None]:
    texts = [batch.context.plain(text) for text in batch.texts(op.text_key)]
    said = [text for text in texts if text]
    found = iter(batch.embedded_texts(op, path, said) if said else ())
    return [np.asarray(next(found), np.float32) if text else None for text in texts]


def _width(parts: Sequence[Sequence[Any]], op: Operator, batch: Batch, path: str, by: By) -> int:
    for one in (one for part in parts for one in part):
        if one is not None and not isinstance(one, Drop):
            return len(one)
    # No row of the block has what is compared, and its keys must be as long as all others.
    embedder = batch.context.embedder(path, type(op).__name__)
    if by == "texts":
        return len(embedder.embed_texts(["a"])[0])
    from PIL import Image

    return len(embedder.embed_images([Image.new("RGB", (32, 32))])[0])


def _joined(parts: Sequence[Any | Drop | None], width: int) -> Any | Drop | None:
    fault = next((one for one in parts if isinstance(one, Drop)), None)
    if fault is not None or all(one is None for one in parts):
        return fault
    units = [np.zeros(width, np.float32) if one is None else _unit(one) for one in parts]
    return _unit(np.concatenate(units))


def _unit(vector: Any) -> Any:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


class Rows:
    """Keys read again: [N] numbers, and unit vectors [N, D + 1] in pieces.

    The last column is 1 for rows without a vector, which are thus all alike and unlike
    every other row.
    """

    def __init__(self, keys: Any):
        self._keys = keys
        self.count = len(keys)
        self.width = (keys.shape[1] - _HEAD.size) // 2 + 1
        pieces = [np.array(keys[part, : _HEAD.size]) for part in self._parts()]
        head = np.concatenate(pieces) if pieces else np.zeros((0, _HEAD.size), np.uint8)
        self.drawn = _column(head, _DRAWN, "<u8")
        self.quality = _column(head, _QUALITY, "<f8")
        self.cost = _column(head, _COST, "<f8")
        self.has_vector = head[:, _HAS][:, 0] != 0

    def at(self, places: Any) -> Any:
        """[n, D + 1] float32 of some rows."""
        if 4 * self.count * self.width <= IN_MEMORY:
            return self._all[places]
        return self._read(places)

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """All rows in order, some at a time."""
        for part in self._parts():
            yield part, self.at(part)

    @cached_property
    def order(self) -> Any:
        """[N] the places as chance orders them."""
        return np.argsort(self.drawn, kind="stable")

    @cached_property
    def _all(self) -> Any:
        found = np.empty((self.count, self.width), np.float32)
        for part in self._parts():
            found[part] = self._read(part)
        return found

    def _read(self, places: Any) -> Any:
        raw = np.ascontiguousarray(self._keys[places, _HEAD.size :])
        found = np.empty((len(raw), self.width), np.float32)
        found[:, :-1] = raw.view("<f2")
        # Rounding to half precision has changed the lengths a little.
        found[:, :-1] /= np.maximum(np.linalg.norm(found[:, :-1], axis=1, keepdims=True), 1e-12)
        found[:, -1] = ~self.has_vector[places]
        return found

    def _parts(self) -> Iterator[slice]:
        for at in range(0, self.count, ROWS_AT_ONCE):
            yield slice(at, min(at + ROWS_AT_ONCE, self.count))


def _column(head: Any, where: slice, kind: str) -> Any:
    return np.ascontiguousarray(head[:, where]).view(kind)[:, 0]
