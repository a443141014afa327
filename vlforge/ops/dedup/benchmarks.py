"""Keeping benchmarks out of the data."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.data.images import ImageError, ImageFile, to_rgb
from vlforge.ops.base import ImageFilter
from vlforge.ops.batch import drop_of
from vlforge.types import DataError, Drop, Need, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.data.checking.overlap import NearHashes
    from vlforge.data.records import Record
    from vlforge.ops.batch import Batch

_MOST_BITS = 16
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class BenchmarkOverlapFilter(ImageFilter):
    """Drop rows whose pictures or texts stand in a benchmark, or nearly so.

    `benchmarks` are files or folders of evaluation data: a folder of pictures, MMBench's
    tables, question files as JSON, or any dataset that VLForge reads; `PATH=FOLDER` says
    where a file's pictures lie. A picture is in a benchmark where its perceptual hash
    (phash) differs in at most `max_distance` of 64 bits from one there; with `hf_clip` also
    where the cosine of their embeddings is `max_similarity` or more, which finds crops and
    recoloured copies, too. A text is where it shares a run of `ngram` words with a
    benchmark's question, or holds a whole one of at least `min_words` words; case, marks
    and widths do not count, Chinese characters are words.

    `by` says what drops a row: its pictures, its text, `either`, or only `both` together.
    Questions alone repeat by themselves ("what colour is the bus"): `texts` drops more than
    was leaked. The statistic names what was found; a row without stays.
    """

    benchmarks: tuple[str, ...]
    by: Literal["images", "texts", "either", "both"] = "images"
    max_distance: int = 3
    hf_clip: str = ""
    max_similarity: float = 0.95
    ngram: int = 13
    min_words: int = 8

    stats: ClassVar = ("benchmark_overlap",)

    def __post_init__(self) -> None:
        op = "benchmark_overlap_filter"
        if not self.benchmarks:
            raise RecipeError(f"{op}.benchmarks is empty: name evaluation files or folders")
        for given in self.benchmarks:
            if not Path(given.partition("=")[0]).exists():
                raise RecipeError(f"{op}.benchmarks: no such file or folder: {given}")
        if not 0 <= self.max_distance <= _MOST_BITS:
            raise RecipeError(f"{op}.max_distance is {self.max_distance}, not 0..{_MOST_BITS}")
        if not 1 <= self.min_words <= self.ngram:
            raise RecipeError(f"{op}: min_words is {self.min_words}, not 1..{self.ngram} (ngram)")
        need = Need.TEXT if self.by == "texts" else Need.PIXELS
        if self.by != "texts" and self.hf_clip:
            need = Need.EMBEDDING
        object.__setattr__(self, "needs", need)

    def view(self, image: Image, is_truncated: bool) -> int:
        """The picture's perceptual hash."""
        return hash_of(image)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """Per row what of it is in which benchmark."""
        known = self._known
        found: list[Any] = [[] for _ in batch.items]
        if self.by != "texts":
            found = self._pictures(batch, known)
        if self.by != "images":
            for at, text in enumerate(batch.texts(self.text_key)):
                said = known.said_in(batch.context.plain(text))
                if not isinstance(found[at], Drop):
                    found[at] += [f"text: {said}"] if said else []
        return (found,)

    def keep(self, *values: Any) -> bool:
        """Whether nothing, or with `both` not everything, of a row is in a benchmark."""
        kinds = {one.partition(":")[0] for one in values[0]}
        return len(kinds) < (2 if self.by == "both" else 1)

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Names what was found."""
        return Drop(name, "in a benchmark", self.stats[0], values[0])

    @property
    def _known(self) -> Known:
        stamps = tuple(_stamp(given) for given in self.benchmarks)
        return known_of(
            self.benchmarks, stamps, self.by, self.max_distance, self.ngram, self.min_words,
            bool(self.hf_clip),
        )  # fmt: skip

    def _pictures(self, batch: Batch, known: Known) -> list[Any]:
        rows: list[Any] = []
        vectors = batch.embedded_images(self, self.hf_clip) if self.hf_clip else None
        for at, files in enumerate(batch.image_files(self)):
            near = vectors[at] if vectors else [None] * len(files)
            try:
                hashes = [self._hash(batch, file) for file in files]
            except ImageError as error:
                rows.append(drop_of(error))
                continue
            if isinstance(near, Drop):
                rows.append(near)
                continue
            told = [
                known.seen_in(number) or self._alike(batch, known, vector)
                for number, vector in zip(hashes, near, strict=True)
            ]
            rows.append([f"picture: {one}" for one in told if one])
        return rows

    def _hash(self, batch: Batch, file: ImageFile) -> int:
        if self.hf_clip:
            return hash_of(batch.files.rgb(file))
        found: int = batch.files.view(file, self)
        return found

    def _alike(self, batch: Batch, known: Known, vector: Any) -> str:
        """The benchmark's picture whose embedding is near enough; "" where none is."""
        if vector is None:
            return ""
        places, table = known.embedded(batch.context.embedder(self.hf_clip, type(self).__name__))
        if not places:
            return ""
        cosines = table @ vector
        best = int(cosines.argmax())
        if cosines[best] < self.max_similarity:
            return ""
        return f"{places[best]} (cosine {cosines[best]:.3f})"


def hash_of(image: Image) -> int:
    """The 64 bits that `vlforge data check --against` compares, too."""
    from vlforge.ops.dedup.hashes import image_hash

    return int.from_bytes(image_hash(to_rgb(image), "phash"))


@dataclass
class Known:
    """Benchmarks by the hashes of their pictures and the runs of words in their questions."""

    looks: NearHashes
    places: dict[int, str] = field(default_factory=dict)
    """Where the picture of a hash stands, the first of several."""
    runs: dict[int, dict[int, str]] = field(default_factory=dict)
    """By number of words: the key of a run of words, and the benchmark that it is from."""
    pictures: list[tuple[str, ImageFile]] = field(default_factory=list)
    _embedded: dict[int, tuple[list[str], Any]] = field(default_factory=dict)

    def seen_in(self, number: int) -> str:
        """Where a picture like one with this hash is; "" where none is."""
        near = self.looks.nearest(number)
        if near is None:
            return ""
        return f"{self.places[near]} ({(near ^ number).bit_count()} bits)"

    def said_in(self, text: str) -> str:
        """The benchmark with which a text shares a run of words; "" where none does."""
        from vlforge.data.checking.overlap import normalised

        words = normalised(text).split()
        for size, keys in self.runs.items():
            for key in _runs(words, size):
                if key in keys:
                    return keys[key]
        return ""

    def embedded(self, embedder: Any) -> tuple[list[str], Any]:
        """Where the pictures stand and their unit vectors [P, D], worked out once."""
        if id(embedder) not in self._embedded:
            import numpy as np

            parts, places = [], []
            for at in range(0, len(self.pictures), _AT_ONCE):
                some = self.pictures[at : at + _AT_ONCE]
                parts.append(embedder.embed_images([to_rgb(f.picture().upright) for _, f in some]))
                places += [place for place, _ in some]
            table = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
            self._embedded[id(embedder)] = (places, table)
        return self._embedded[id(embedder)]


@functools.lru_cache(maxsize=4)
def known_of(
    benchmarks: tuple[str, ...],
    stamps: tuple[int, ...],
    by: str,
    bits: int,
    ngram: int,
    min_words: int,
    keeps_pictures: bool,
) -> Known:
    """Benchmarks by their keys, read once per process.

    Raises:
        DataError: one cannot be read.
        RecipeError: one holds nothing to compare with.
    """
    from vlforge.data.checking.overlap import NearHashes
    from vlforge.data.checking.references import reference_records

    known = Known(NearHashes(bits))
    for given in benchmarks:
        before = len(known.places), sum(map(len, known.runs.values()))
        name = Path(given.partition("=")[0]).name
        for record in reference_records(given):
            if by != "texts":
                _learn_pictures(known, record, name, keeps_pictures)
            if by != "images":
                _learn_texts(known, record, name, ngram, min_words)
        if before == (len(known.places), sum(map(len, known.runs.values()))):
            raise RecipeError(
                f"benchmark_overlap_filter.benchmarks: {given} holds nothing to compare by {by}; "
                "PATH=FOLDER says where its pictures lie"
            )
    return known


def _learn_pictures(known: Known, record: Record, name: str, keeps: bool) -> None:
    for picture in record.pictures:
        file = ImageFile(
            picture.path or name if picture.content else picture.place, picture.content
        )
        try:
            number = hash_of(file.picture().upright)
        except ImageError as error:
            # What cannot be seen cannot be kept out, and nobody would know.
            raise DataError(
                f"benchmark_overlap_filter.benchmarks: {name} row {record.line}: {error}; mend "
                "it, or say PATH=FOLDER where its pictures lie elsewhere"
            ) from None
        place = f"{name} row {record.line}"
        known.looks.add(number)
        known.places.setdefault(number, place)
        if keeps:
            known.pictures.append((place, file))


def _learn_texts(known: Known, record: Record, name: str, ngram: int, min_words: int) -> None:
    from vlforge.data.checking.overlap import normalised
    from vlforge.data.checking.texts import texts_of

    texts = [turn.text for turn in record.turns if turn.role == "user"] or texts_of(record)
    for text in texts:
        words = normalised(text).split()
        size = min(ngram, len(words))
        if size >= min_words:
            runs = known.runs.setdefault(size, {})
            for key in _runs(words, size):
                runs.setdefault(key, f"{name} row {record.line}")


def _runs(words: Sequence[str], size: int) -> Iterator[int]:
    from vlforge.data.checking.pictures import key_of

    for at in range(len(words) - size + 1):
        yield key_of(" ".join(words[at : at + size]).encode("utf-8", "replace"))


def _stamp(given: str) -> int:
    return Path(given.partition("=")[0]).stat().st_mtime_ns
