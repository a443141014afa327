"""Pictures of a run: each decoded once and kept small, or decoded just in time.

Shapes: B pictures, S pixels a side, I files, N tokens a picture, D width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.data.images import header_size, load_rgb
from vlforge.data.set_aside import Aside
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.types import DataError

MEMORY_SHARE = 0.15
"""Part of the memory that decoded pictures, and cached features, may each take."""
CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
"""Where Linux says how much a container may take, by version of control groups."""
FEATURE_CHUNK = 64
"""Pictures that the frozen encoder sees at once when the cache is filled."""


@dataclass(frozen=True)
class Stored:
    """A picture that came with the data, set aside on disk."""

    aside: Aside
    number: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"picture {self.number + 1} of those in the data"

    def read(self) -> bytes:
        """The encoded picture."""
        return self.aside.read(self.number)


Source = str | Stored


def name_of(source: Source) -> str:
    """The picture's file name, or what stands for it."""
    return source.name if isinstance(source, Stored) else Path(source).name


class Found:
    """The different pictures of a dataset, numbered as they are met.

    Pictures that the data hold themselves are kept in a file of `scratch` that
    has no name, so that memory does not grow with them.
    """

    def __init__(self, scratch: Path | None = None):
        self.sources: list[Source] = []
        self._numbers: dict[str | bytes, int] = {}
        self._scratch = scratch
        self._aside: Aside | None = None

    def number(self, image: str | bytes) -> int:
        """The number of a path or of an encoded picture; equal ones have the same."""
        key = image if isinstance(image, str) else hashlib.blake2b(image, digest_size=16).digest()
        number = self._numbers.setdefault(key, len(self.sources))
        if number == len(self.sources):
            self.sources.append(image if isinstance(image, str) else self._stored(image))
        return number

    def _stored(self, image: bytes) -> Stored:
        if self._aside is None:
            self._aside = Aside(self._scratch)
        return Stored(self._aside, self._aside.add(image))


class Pictures:
    """Pictures by number, files or stored ones, fitted to the encoder's size.

    Small sets are decoded at once and kept as bytes; larger ones are decoded by
    threads, a few batches ahead. `bad` maps numbers to why they cannot be read:
    complete from the start for a kept set, and growing for a large one, whose
    unreadable pictures come back black.
    """

    def __init__(self, sources: Sequence[Source], processor: ImageProcessor, threads: int = 1):
        self.sources = list(sources)
        self.processor = processor
        self.bad: dict[int, str] = {}
        self._kept: Tensor | None = None
        self._ahead: dict[int, Future[np.ndarray]] = {}
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads))
        if len(self.sources) * 3 * processor.size**2 <= MEMORY_SHARE * machine_memory():
            self._kept = self._decode_all()
        else:
            self._look_at_headers()

    @property
    def all_in_memory(self) -> bool:
        """Whether every file was decoded at the start."""
        return self._kept is not None

    def take(self, numbers: Sequence[int]) -> Tensor:
        """uint8 [B, S, S, 3]."""
        if self._kept is not None:
            return self._kept[torch.as_tensor(numbers, dtype=torch.long)]
        self.prefetch(numbers)
        return torch.from_numpy(np.stack([self._ahead.pop(n).result() for n in _once(numbers)]))[
            torch.as_tensor(_ranks(numbers))
        ]

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Start decoding what will be taken soon."""
        if self._kept is not None:
            return
        for number in _once(numbers):
            if number not in self._ahead:
                self._ahead[number] = self._pool.submit(self._decode, number)

    def _decode_all(self) -> Tensor:
        size = self.processor.size
        kept = torch.zeros(len(self.sources), size, size, 3, dtype=torch.uint8)
        for number, picture in enumerate(self._pool.map(self._decode, range(len(self.sources)))):
            kept[number] = torch.from_numpy(picture)
        return kept

    def _look_at_headers(self) -> None:
        for number in range(len(self.sources)):
            try:
                header_size(self._content(number))
            except DataError as error:
                self.bad[number] = str(error)

    def _content(self, number: int) -> str | bytes:
        source = self.sources[number]
        return source.read() if isinstance(source, Stored) else source

    def _decode(self, number: int) -> np.ndarray:
        try:
            return np.array(self.processor.fit(load_rgb(self._content(number))))
        except DataError as error:
            self.bad[number] = str(error)
            return np.zeros((self.processor.size, self.processor.size, 3), dtype=np.uint8)


def _once(numbers: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(int(number) for number in numbers))


def _ranks(numbers: Sequence[int]) -> list[int]:
    place = {number: rank for rank, number in enumerate(_once(numbers))}
    return [place[int(number)] for number in numbers]


def machine_memory() -> int:
    """Bytes of memory this machine or its container has; not what is free just now.

    A resumed run has to decide as the first one did.
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in CONTAINER_LIMITS:
        try:
            sizes.append(int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return min(sizes)


def features_fit(pictures: int, tokens: int, width: int) -> bool:
    """Whether fp32 features of so many pictures may be kept in memory."""
    return pictures * tokens * width * 4 <= MEMORY_SHARE * machine_memory()


@torch.no_grad()
def cache_features(
    vision: nn.Module, pictures: Pictures, numbers: Sequence[int], device: torch.device
) -> Tensor:
    """Features of a frozen encoder, computed once: [I, N, D] on the CPU.

    Row n belongs to picture n; rows not asked for stay zero. Chunks depend on
    the numbers alone, so that a resumed run computes the same bytes.
    """
    wanted = sorted(set(numbers))
    cache: Tensor | None = None
    for start in range(0, len(wanted), FEATURE_CHUNK):
        chunk = wanted[start : start + FEATURE_CHUNK]
        pictures.prefetch(wanted[start + FEATURE_CHUNK : start + 2 * FEATURE_CHUNK])
        pixels = pictures.processor.normalise(pictures.take(chunk).to(device))
        features = vision(pixels).float().cpu()
        if cache is None:
            cache = torch.zeros(len(pictures.sources), *features.shape[1:])
        cache[torch.tensor(chunk)] = features
    return torch.zeros(0) if cache is None else cache
