"""Data-Juicer's deduplicators for Ray, by their names: the same results wherever a recipe runs.

How many actors, tasks and buffers Data-Juicer would take is no question here,
so those keys are accepted and without effect; so is the address of a Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlforge.ops.dedup.documents import DocumentDeduplicator
from vlforge.ops.dedup.images import ImageDeduplicator
from vlforge.ops.dedup.near_documents import DocumentMinhashDeduplicator
from vlforge.types import Drop, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch

BACKENDS = ("ray_actor", "redis")
_NOTHING = b"EMPTY"
"""What Data-Juicer compares instead of a hash where there is nothing to hash."""


@dataclass(frozen=True, kw_only=True)
class RayDocumentDeduplicator(DocumentDeduplicator):
    """Keep the first of rows with the same text: `document_deduplicator` by its Ray name.

    `backend`, `redis_address` and `dedup_set_num` have no effect. With
    `compat: data_juicer` an empty text differs from one of white space.
    """

    backend: str = "ray_actor"
    redis_address: str = "redis://localhost:6379"
    dedup_set_num: int | str = "auto"

    def __post_init__(self) -> None:
        check_backend(self.backend)

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        found = super().keys(batch)
        if not self.compat:
            return found
        texts = batch.texts(self.text_key)
        return [key if text else _NOTHING for key, text in zip(found, texts, strict=True)]


@dataclass(frozen=True, kw_only=True)
class RayImageDeduplicator(ImageDeduplicator):
    """Keep the first of rows with the same pictures: `image_deduplicator` by its Ray name.

    `backend`, `redis_address` and `dedup_set_num` have no effect; the other
    keys are those of `image_deduplicator`. With `compat: data_juicer` rows
    without pictures repeat each other, so that only the first of them stays.
    """

    backend: str = "ray_actor"
    redis_address: str = "redis://localhost:6379"
    dedup_set_num: int | str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_backend(self.backend)

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        found = super().keys(batch)
        return [b"\0" + _NOTHING if key is None else key for key in found] if self.compat else found


@dataclass(frozen=True, kw_only=True)
class RayBtsMinhashDeduplicator(DocumentMinhashDeduplicator):
    """Keep the first of nearly equal texts: `document_minhash_deduplicator` by its Ray name.

    Its keys, defaults and results are those of `document_minhash_deduplicator`.
    What says how Data-Juicer's union-find is spread over a cluster
    (`union_find_parallel_num` to `task_memory`) has no effect.
    """

    union_find_parallel_num: int | str = "auto"
    union_threshold: int | None = 256
    max_pending_edge_buffer_task: int = 20
    num_edge_buffer_task_returns: int = 10
    max_pending_filter_tasks: int = 20
    num_filter_task_returns: int = 10
    merge_batch_size: int = 1000
    minhash_batch_size: int | str = "auto"
    memory_per_sample: float | None = 0.1
    actor_memory: int | None = None
    task_memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class RayBtsMinhashCppDeduplicator(RayBtsMinhashDeduplicator):
    """Keep the first of nearly equal texts: `document_minhash_deduplicator` by its Ray name.

    As `ray_bts_minhash_deduplicator`. Data-Juicer's C++ kernel hashes shingles
    in another way and leaves out each text's last one, so texts near the
    threshold may fare otherwise there.
    """


def check_backend(name: str) -> None:
    """Refuse what is no backend of Data-Juicer's."""
    if name not in BACKENDS:
        raise RecipeError(f"backend is {name!r}: take one of {', '.join(BACKENDS)}")
