"""What DataComp's baselines choose by: clusters near reference pictures, words of a list."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.ops.base import Bounds, Chooser, TextFilter
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch, Context

_AT_ONCE = 32
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class ImageClusterSelector(Chooser):
    """Keep rows whose pictures fall into a cluster that reference pictures fall into, too.

    The rows' pictures (several: their mean) are cut into `n_clusters` by k-means over the
    vectors of `hf_clip` (0: as many as the root of their number); each picture of
    `reference` then goes to the centre nearest to it, and the rows of those clusters stay.
    `reference` is a folder of pictures such as ImageNet's, a dataset of any format, or a
    `.npy` file of vectors by the same encoder. Rows without a picture go.

    Different from the source: k-means runs over the rows at hand (there, over the small
    pool for all sizes) and with numpy; 100,000 clusters of millions of rows take days.

    Source: image-based filtering of DataComp, Gadre et al. 2023.
    """

    reference: str
    hf_clip: str = "openai/clip-vit-large-patch14"
    n_clusters: int = 0
    max_iter: int = 20

    needs: ClassVar = Need.EMBEDDING

    def __post_init__(self) -> None:
        if not Path(self.reference.partition("=")[0]).exists():
            raise RecipeError(f"image_cluster_selector.reference: no {self.reference!r} there")
        if self.n_clusters < 0 or self.max_iter < 1:
            raise RecipeError("image_cluster_selector: n_clusters from 0, max_iter from 1")

    def keys(self, batch: Batch) -> list[bytes | Drop]:
        from vlforge.ops.select.vectors import drawn, embedded_rows, padded, row_key

        vectors, width = embedded_rows(self, batch, self.hf_clip, "images")
        found: list[bytes | Drop] = []
        for item, vector in zip(batch.items, vectors, strict=True):
            number = drawn(batch.context.seed, "image_cluster_selector", item.uid)
            bad = vector if isinstance(vector, Drop) else None
            found.append(bad or row_key(number, None, None, vector))
        return padded(found, width)

    def choose(self, keys: Any, context: Context) -> Sequence[int]:
        """The places of the rows that stay."""
        import numpy as np

        from vlforge.ops.select.clustering import k_means, nearest
        from vlforge.ops.select.vectors import Rows

        rows = Rows(keys)
        count = self.n_clusters or max(1, math.isqrt(rows.count))
        labels, centres = k_means(rows, count, self.max_iter)
        wanted = np.zeros(len(centres), bool)
        found_any = False
        for vectors in self._references(context):
            found_any = True
            if vectors.shape[1] != rows.width - 1:
                raise RecipeError(
                    f"image_cluster_selector.reference: vectors of {vectors.shape[1]} numbers, "
                    f"but {self.hf_clip} gives {rows.width - 1}"
                )
            wanted[nearest(vectors, centres[:, :-1])] = True
        if not found_any:
            raise RecipeError(
                f"image_cluster_selector.reference: {self.reference} holds no picture that can "
                "be read; PATH=FOLDER says where a file's pictures lie"
            )
        found: list[int] = np.flatnonzero(wanted[labels] & rows.has_vector).tolist()
        return found

    def _references(self, context: Context) -> Iterator[Any]:
        """Vectors [n, D] of the reference pictures, some at a time."""
        import numpy as np

        if self.reference.endswith(".npy"):
            stored = np.load(self.reference, mmap_mode="r", allow_pickle=False)
            for at in range(0, len(stored), _AT_ONCE * _AT_ONCE):
                some = np.asarray(stored[at : at + _AT_ONCE * _AT_ONCE], np.float32)
                yield some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
            return
        embedder = context.embedder(self.hf_clip, "image_cluster_selector")
        waiting: list[Any] = []
        for picture in _pictures(self.reference):
            waiting.append(picture)
            if len(waiting) == _AT_ONCE:
                yield np.asarray(embedder.embed_images(waiting), np.float32)
                waiting = []
        if waiting:
            yield np.asarray(embedder.embed_images(waiting), np.float32)


def _pictures(reference: str) -> Iterator[Any]:
    from vlforge.data.checking.references import reference_records
    from vlforge.data.images import ImageError, ImageFile, to_rgb

    for record in reference_records(reference):
        for one in record.pictures:
            name = one.place if one.content is None else one.path
            try:
                yield to_rgb(ImageFile(name, one.content).picture().upright)
            except ImageError:
                continue


@dataclass(frozen=True, kw_only=True)
class WordListFilter(TextFilter):
    """Keep texts with words or phrases of a list, such as the names of a benchmark's classes.

    `words_file` holds one word or phrase a line; case and marks do not count. The
    statistic is the number of different entries that stand in the text.

    DataComp's text-based filter asks WordNet for the first meaning of each word and keeps
    texts with one of ImageNet's; a list of their names comes near to it.
    """

    words_file: str
    min_num: int = 1
    max_num: int | None = None

    stats: ClassVar = ("listed_entries",)

    def __post_init__(self) -> None:
        entries(self.words_file)

    def bounds(self) -> tuple[Bounds, ...]:
        """In entries."""
        return ((self.min_num, self.max_num),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """Entries per text."""
        by_size = entries(self.words_file)
        texts = [batch.context.plain(text) for text in batch.texts(self.text_key)]
        return ([_found(_WORD.findall(text.casefold()), by_size) for text in texts],)


def _found(words: list[str], by_size: dict[int, frozenset[str]]) -> int:
    return sum(
        len(listed.intersection(" ".join(words[at : at + size]) for at in range(len(words))))
        for size, listed in by_size.items()
    )


@functools.cache
def entries(path: str) -> dict[int, frozenset[str]]:
    """The lines of a word list by their number of words.

    Raises:
        RecipeError: no such file, or nothing in it.
    """
    where = f"word_list_filter.words_file {path}"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is no UTF-8"
        raise RecipeError(f"{where} cannot be read: {why}") from None
    found: dict[int, set[str]] = {}
    for line in text.splitlines():
        words = _WORD.findall(line.casefold())
        if words:
            found.setdefault(len(words), set()).add(" ".join(words))
    if not found:
        raise RecipeError(f"{where} is empty: write one word or phrase a line")
    return {size: frozenset(listed) for size, listed in sorted(found.items())}
