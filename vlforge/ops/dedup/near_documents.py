"""Keeping the first of texts that are nearly the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlforge.ops.base import NearDedup
from vlforge.types import Drop, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch
    from vlforge.ops.dedup.shingles import Shingles

_WORD = 8
"""Bytes of one number in a key."""


@dataclass(frozen=True, kw_only=True)
class _Shingled(NearDedup):
    """How texts become shingles, for all deduplicators that compare those."""

    lowercase: bool = True
    ignore_pattern: str | None = None

    def __post_init__(self) -> None:
        is_usual = self._tokenization in ("space", "character") and not self.ignore_pattern
        if is_usual:
            return
        from vlforge.ops.dedup import shingles

        if self.ignore_pattern:
            shingles.pattern(self.ignore_pattern)
        if self._tokenization == "punctuation":
            shingles.punctuation()
        if self._tokenization == "sentencepiece":
            shingles.check_sentencepiece(self._model)

    @property
    def _tokenization(self) -> Any:
        raise NotImplementedError

    @property
    def _model(self) -> str | None:
        return None

    def _normal(self, texts: list[str]) -> list[str]:
        if self.lowercase:
            texts = [text.lower() for text in texts]
        if self.ignore_pattern:
            from vlforge.ops.dedup.shingles import pattern

            remove = pattern(self.ignore_pattern).sub
            texts = [remove("", text) for text in texts]
        return texts

    def _portions(self, batch: Batch, window: int) -> Iterator[tuple[list[str], Shingles]]:
        """Some texts, lower-cased and the like, and their shingles."""
        from vlforge.ops.dedup.shingles import portions, shingles_of

        for texts in portions(self._normal(batch.texts(self.text_key))):
            yield list(texts), shingles_of(texts, self._tokenization, window, self._model)


@dataclass(frozen=True, kw_only=True)
class DocumentMinhashDeduplicator(_Shingled):
    """Keep the first of texts that share most of their shingles (MinHash, LSH).

    A shingle is a run of `window_size` tokens: words between blanks (`space`),
    parts between punctuation (`punctuation`), characters (`character`) or the
    pieces of a sentencepiece model (`sentencepiece`, its file in
    `tokenizer_model`). Two texts are near where any of `num_bands` bands of
    `num_rows_per_band` of their `num_permutations` least hashes agree; with
    both left out they are chosen so that texts of a Jaccard similarity around
    `jaccard_threshold` are told apart best. A chain of near texts is one
    cluster, and its first row stays.

    `lowercase` compares without case; what matches `ignore_pattern` (a regular
    expression) is left out before.

    Texts of fewer than `window_size` tokens have no shingle. They repeat each
    other only where they are equal (but for white space); with
    `compat: data_juicer` all of them count as one and the same text. It also
    allows more bands and rows than there are permutations.
    """

    tokenization: Literal["space", "punctuation", "character", "sentencepiece"] = "space"
    window_size: int = 5
    num_permutations: int = 256
    jaccard_threshold: float = 0.7
    num_bands: int | None = None
    num_rows_per_band: int | None = None
    tokenizer_model: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window_size", "num_permutations", "num_bands", "num_rows_per_band"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name} is {value}: give a number from 1")
        if not 0 <= self.jaccard_threshold <= 1:
            raise RecipeError(f"jaccard_threshold is {self.jaccard_threshold}, not 0..1")
        if self.num_bands and self.num_rows_per_band and not self.compat:
            wanted = self.num_bands * self.num_rows_per_band
            if wanted > self.num_permutations:
                raise RecipeError(
                    f"{self.num_bands} bands of {self.num_rows_per_band} rows need {wanted} "
                    f"permutations, but num_permutations is {self.num_permutations}: raise it"
                )

    @property
    def _tokenization(self) -> str:
        return self.tokenization

    @property
    def _model(self) -> str | None:
        return self.tokenizer_model

    @property
    def bands(self) -> tuple[int, int]:
        """Bands, and rows of each."""
        if self.num_bands and self.num_rows_per_band:
            return self.num_bands, self.num_rows_per_band
        from vlforge.ops.dedup.minhash import bands_and_rows

        return bands_and_rows(self.jaccard_threshold, self.num_permutations)

    @property
    def key_bytes(self) -> int:
        """One number per band."""
        return _WORD * self.bands[0]

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        from vlforge.ops.dedup.minhash import band_keys, signatures

        found: list[bytes | Drop | None] = []
        for texts, shingles in self._portions(batch, self.window_size):
            signed = signatures(shingles, self.num_permutations)
            rows = band_keys(signed, *self.bands).tobytes()
            size = self.key_bytes
            keys = [rows[at : at + size] for at in range(0, len(rows), size)]
            is_short = (shingles.counts == 0).tolist()
            found += [
                _digest(text, size) if short and not self.compat else key
                for text, key, short in zip(texts, keys, is_short, strict=True)
            ]
        return found

    def firsts(self, keys: Any) -> Any:
        """[N] the first row of each row's cluster, of `keys` [N, key_bytes] uint8.

        A cluster is joined by rows that share a band.
        """
        from vlforge.ops.dedup.clusters import columns, firsts_of, forest, join_equal

        parents = forest(len(keys))
        for values in columns(keys):
            join_equal(parents, values)
        return firsts_of(parents)


@dataclass(frozen=True, kw_only=True)
class DocumentSimhashDeduplicator(_Shingled):
    """Keep the first of texts whose 64-bit fingerprints are near (SimHash).

    A fingerprint is made of shingles, runs of `window_size` tokens: words
    between blanks (`space`), parts between punctuation (`punctuation`) or
    characters (`character`). Two texts are near where at most
    `hamming_distance` bits differ; a chain of near texts is one cluster, and
    its first row stays.

    `lowercase` compares without case; what matches `ignore_pattern` (a regular
    expression) is left out before. `num_blocks` must be above
    `hamming_distance`, as in Data-Juicer, and has no effect on the result.

    Texts of fewer than `window_size` tokens have no shingle. They repeat each
    other only where they are equal (but for white space); with
    `compat: data_juicer` all of them have the fingerprint 0.
    """

    tokenization: Literal["space", "punctuation", "character"] = "space"
    window_size: int = 6
    num_blocks: int = 6
    hamming_distance: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window_size", "num_blocks", "hamming_distance"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}: give a number from 1")
        if not self.hamming_distance < self.num_blocks <= 64:
            raise RecipeError(
                f"num_blocks is {self.num_blocks}: it must be above hamming_distance "
                f"({self.hamming_distance}) and at most 64"
            )

    @property
    def _tokenization(self) -> str:
        return self.tokenization

    @property
    def key_bytes(self) -> int:
        """A fingerprint, and a number that tells texts without one apart (0 for the others)."""
        return 2 * _WORD

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        from vlforge.ops.dedup.simhash import fingerprints

        found: list[bytes | Drop | None] = []
        for texts, shingles in self._portions(batch, self.window_size):
            rows = fingerprints(shingles).tobytes()
            for at, (text, count) in enumerate(zip(texts, shingles.counts.tolist(), strict=True)):
                is_own = count == 0 and not self.compat
                own = _digest(text, _WORD) if is_own else bytes(_WORD)
                found.append(rows[_WORD * at : _WORD * (at + 1)] + own)
        return found

    def firsts(self, keys: Any) -> Any:
        """[N] the first row of each row's cluster, of `keys` [N, key_bytes] uint8.

        A cluster is joined by fingerprints within the distance.
        """
        import numpy as np

        from vlforge.ops.dedup.clusters import columns, firsts_of, forest, join_equal, join_near

        prints, owns = columns(keys)
        parents = forest(len(keys))
        short, long = np.flatnonzero(owns), np.flatnonzero(owns == 0)
        join_equal(parents, owns[short], short)
        join_near(parents, prints[long], self.hamming_distance, long)
        return firsts_of(parents)


def _digest(text: str, size: int) -> bytes:
    """`size` bytes that only equal texts share (but for white space); never all zero."""
    content = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return hashlib.shake_128(content, usedforsecurity=False).digest(size)
