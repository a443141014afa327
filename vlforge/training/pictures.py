"""Pictures of a run: each decoded once and kept small, or decoded just in time.

Shapes: B pictures, S pixels a side, I files, N tokens a picture, D width.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlforge.data.images import header_size, load_rgb
from vlforge.data.set_aside import Aside
from vlforge.models.parts.anyres import BLANK, Size, best_resolution
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.random_crop import CroppingProcessor
from vlforge.types import DataError

MEMORY_SHARE = 0.15
"""Part of the memory that decoded pictures, and cached features, may each take."""
AHEAD_SHARE = 0.05
"""Part of the memory that pictures decoded ahead may take."""
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

Draw = tuple[int, int]
"""A picture's number, and which of its parts."""


def name_of(source: Source) -> str:
    """The picture's file name, or what stands for it."""
    return source.name if isinstance(source, Stored) else Path(source).name


class Found:
    """The different pictures of a dataset, numbered as they are met.

    Pictures that the data hold themselves are kept in a file of `scratch` that
    has no name, so that memory does not grow with them. `sizes` holds what was said
    of each when it was first met.
    """

    def __init__(self, scratch: Path | None = None):
        self.sources: list[Source] = []
        self.sizes: list[Size] = []
        self._numbers: dict[str | bytes, int] = {}
        self._scratch = scratch
        self._aside: Aside | None = None

    def number(self, image: str | bytes, size: Size = BLANK) -> int:
        """The number of a path or of an encoded picture; equal ones have the same."""
        key = image if isinstance(image, str) else hashlib.blake2b(image, digest_size=16).digest()
        number = self._numbers.setdefault(key, len(self.sources))
        if number == len(self.sources):
            self.sources.append(image if isinstance(image, str) else self._stored(image))
            self.sizes.append(size)
        return number

    def _stored(self, image: bytes) -> Stored:
        if self._aside is None:
            self._aside = Aside(self._scratch)
        return Stored(self._aside, self._aside.add(image))


class Pictures:
    """Pictures by number, files or stored ones, fitted to the encoder's size.

    Small sets are decoded at once and kept as bytes; larger ones, and those of which
    each draw is another part (`crop_seed`), are decoded by threads, a batch ahead and
    never more of them than fit into `AHEAD_SHARE` of the memory. `bad` maps numbers to
    why they cannot be read: complete from the start for a kept set, and growing for a
    large one, whose unreadable pictures come back black.

    Args:
        sizes: width and height of each, where they are cut into tiles.
        crop_seed: a random part of the picture for each draw; None is the whole.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: ImageProcessor,
        threads: int = 1,
        *,
        sizes: Sequence[Size] = (),
        crop_seed: int | None = None,
    ):
        self.sources = list(sources)
        self.processor = processor
        self.sizes = list(sizes)
        self.bad: dict[int, str] = {}
        self._cropping = None if crop_seed is None else Cropping.of(processor, crop_seed)
        tiles = [self.tiles(number) for number in range(len(self.sources))]
        self._starts = np.cumsum([0, *tiles])
        self._kept: Tensor | None = None
        self._ahead: dict[Draw, tuple[int, Future[np.ndarray]]] = {}
        self._waiting: deque[Draw] = deque()
        self._turn = 0
        threads = max(1, threads)
        self._pool = ThreadPoolExecutor(max_workers=threads)
        each = 3 * processor.size**2
        most = max([1, *tiles])
        self._most_ahead = max(2 * threads, int(AHEAD_SHARE * machine_memory() / (most * each)))
        keeps = int(self._starts[-1]) * each <= MEMORY_SHARE * machine_memory()
        if keeps and self._cropping is None:
            self._kept = self._decode_all()
        else:
            self._look_at_headers()

    @property
    def all_in_memory(self) -> bool:
        """Whether every file was decoded at the start."""
        return self._kept is not None

    def take(
        self, numbers: Sequence[int], draws: Sequence[int] | np.ndarray | None = None
    ) -> Tensor:
        """uint8 [B, S, S, 3]; with tiles those of all pictures, one after the other.

        Args:
            draws: a number of each draw's own, which decides the part that is cut.
        """
        if self._kept is not None:
            tiles = [np.arange(self._starts[n], self._starts[n + 1]) for n in map(int, numbers)]
            return self._kept[torch.from_numpy(np.concatenate([np.empty(0, dtype=int), *tiles]))]
        asked = self._draws(numbers, draws)
        for draw in dict.fromkeys(asked):
            if draw not in self._ahead:
                self._submit(draw)
        found = {draw: self._ahead.pop(draw)[1].result() for draw in dict.fromkeys(asked)}
        self._submit_waiting()
        return torch.from_numpy(np.concatenate([found[draw] for draw in asked]))

    def prefetch(
        self, numbers: Sequence[int], draws: Sequence[int] | np.ndarray | None = None
    ) -> None:
        """Start decoding what will be taken after the next call of this."""
        if self._kept is not None:
            return
        self._turn += 1
        forgotten = [draw for draw, (turn, _) in self._ahead.items() if turn < self._turn - 1]
        for draw in forgotten:
            self._ahead.pop(draw)[1].cancel()
        self._waiting = deque(dict.fromkeys(self._draws(numbers, draws)))
        self._submit_waiting()

    def _draws(
        self, numbers: Sequence[int], draws: Sequence[int] | np.ndarray | None
    ) -> list[Draw]:
        if self._cropping is None or draws is None:
            return [(int(number), 0) for number in numbers]
        return [(int(n), int(draw)) for n, draw in zip(numbers, draws, strict=True)]

    def _submit_waiting(self) -> None:
        while self._waiting and len(self._ahead) < self._most_ahead:
            draw = self._waiting.popleft()
            if draw not in self._ahead:
                self._submit(draw)

    def _submit(self, draw: Draw) -> None:
        self._ahead[draw] = (self._turn, self._pool.submit(self._decode, *draw))

    def tiles(self, number: int) -> int:
        """How many squares the encoder sees of a picture."""
        if self.processor.fit_mode != "anyres":
            return 1
        width, height = best_resolution(self.sizes[number], self.processor.pinpoints)
        return 1 + (width // self.processor.size) * (height // self.processor.size)

    def _decode_all(self) -> Tensor:
        size = self.processor.size
        kept = torch.zeros(int(self._starts[-1]), size, size, 3, dtype=torch.uint8)
        for number, picture in enumerate(self._pool.map(self._decode, range(len(self.sources)))):
            kept[self._starts[number] : self._starts[number + 1]] = torch.from_numpy(picture)
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

    def _decode(self, number: int, draw: int = 0) -> np.ndarray:
        """uint8 [tiles, S, S, 3]; black where it cannot be read."""
        side = self.processor.size
        shape = (int(self._starts[number + 1] - self._starts[number]), side, side, 3)
        try:
            image = load_rgb(self._content(number))
            fitted = self._cropping(image, draw) if self._cropping else self.processor.fit(image)
            return np.array(fitted).reshape(shape)
        except DataError as error:
            self.bad[number] = str(error)
            return np.zeros(shape, dtype=np.uint8)


@dataclass(frozen=True)
class Cropping:
    """Cuts a random part, the same for the same seed and draw."""

    processor: CroppingProcessor
    seed: int

    @classmethod
    def of(cls, processor: ImageProcessor, seed: int) -> Cropping:
        """For pictures of the processor's size, normalised as it does."""
        fields = {name: getattr(processor, name) for name in vars(processor)}
        return cls(CroppingProcessor(**fields), seed)

    def __call__(self, image: Image.Image, draw: int) -> np.ndarray:
        """uint8 [S, S, 3]."""
        state = np.random.SeedSequence([self.seed % 2**63, draw]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        return self.processor.fit_random(image, generator)


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
