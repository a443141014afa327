"""The hashes of deduplicators as fields of exported rows, for `keep_hashes_in_res_ds`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import context_of
from vlforge.ops.batch import Batch, Files, Item, needs_pixels
from vlforge.ops.bind import bind
from vlforge.types import Row

FIELDS = {
    "document_deduplicator": "__dj__hash",
    "document_minhash_deduplicator": "__dj__minhash",
    "document_simhash_deduplicator": "__dj__simhash",
    "image_deduplicator": "__dj__imagehash",
    "ray_document_deduplicator": "__dj__hash",
    "ray_image_deduplicator": "__dj__imagehash",
    "ray_bts_minhash_deduplicator": "__dj__minhash",
    "ray_bts_minhash_cpp_deduplicator": "__dj__minhash",
}
"""Data-Juicer's fields."""
_AT_ONCE = 256


def with_hashes(rows: Iterable[Row], config: ProcessConfig) -> Iterator[Row]:
    """The rows with a field per deduplicator of the recipe: its hash of the row, in hex.

    Null where the deduplicator has nothing to compare. Hashes are of the rows as
    they are exported.
    """
    bounds = bind(config.process, **config.shared_keys())
    ops: dict[str, Any] = {FIELDS[b.name]: b.op for b in bounds if b.name in FIELDS}
    context = context_of(config, config.seed, "")
    viewers = [op for op in ops.values() if needs_pixels(op)]
    remaining = iter(rows)
    while part := list(islice(remaining, _AT_ONCE)):
        batch = Batch([Item("", 0, row) for row in part], context, Files(viewers))
        columns = {field: op.keys(batch) for field, op in ops.items()}
        for at, row in enumerate(part):
            keys = {field: column[at] for field, column in columns.items()}
            yield row | {f: k.hex() if isinstance(k, bytes) else None for f, k in keys.items()}
