"""Pictures of a run: each decoded once and kept small, or decoded just in time.

Shapes: B pictures, S pixels a side, I files, N tokens a picture, D width.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.data.images import header_size
from vlforge.models.parts.anyres import BLANK, Size, best_resolution
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.training.decoding import Decode, Decoder, ProcessDecoder
from vlforge.training.picture_sources import Source, content_of
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
PROBES = 4
"""Pictures whose cost says where the others are decoded."""
COSTLY_S, WORTH_S = 0.005, 20.0
"""Seconds that a picture, and all, must take before helper processes decode them."""
AT_ONCE = 256
"""Pictures that are under way at once where all are gone through."""
FEATURE_CHUNK = 64
"""Pictures that the frozen encoder sees at once when the cache is filled."""


Each = TypeVar("Each")
Draw = tuple[int, int]
"""A picture's number, and which of its parts."""


class Pictures:
    """Pictures by number, files or stored ones, fitted to the encoder's size.

    Small sets are decoded at once and kept as bytes; larger ones, and those of which
    each draw is another part (`crop_seed`), are decoded by threads, a batch ahead and
    never more of them than fit into `AHEAD_SHARE` of the memory. `bad` maps numbers to
    why they cannot be read: complete from the start for a kept set, and growing for a
    large one, whose unreadable pictures come back black. `waited_s` are the seconds
    that `take` had to wait for pictures.

    Args:
        sizes: width and height of each, where they are cut into tiles.
        crop_seed: a random part of the picture for each draw; None is the whole.
        decode: in threads of this process, or each thread in a helper process; auto
            is processes where pictures are many and costly. The bytes are the same.
        known_bad: what an earlier run found unreadable: headers are not looked at again.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: ImageProcessor,
        threads: int = 1,
        *,
        sizes: Sequence[Size] | np.ndarray = (),
        crop_seed: int | None = None,
        decode: Literal["auto", "threads", "processes"] = "threads",
        known_bad: Mapping[int, str] | None = None,
    ):
        self.sources = sources
        self.processor = processor
        self._sizes = np.asarray(sizes, dtype=np.int32).reshape(-1, 2)
        self.bad: dict[int, str] = dict(known_bad or {})
        self.waited_s = 0.0
        self.crop_seed, self._is_cropped = crop_seed, crop_seed is not None
        self._starts = self._tile_starts()
        self._kept: Tensor | None = None
        self._ahead: dict[Draw, tuple[int, Future[np.ndarray]]] = {}
        self._waiting: deque[Draw] = deque()
        self._turn = 0
        threads = max(1, threads)
        self._pool = ThreadPoolExecutor(max_workers=threads)
        self._decode_one: Decode = Decoder(processor, crop_seed)
        each = 3 * processor.size**2
        most = int(np.diff(self._starts).max(initial=1))
        self._most_ahead = max(2 * threads, int(AHEAD_SHARE * machine_memory() / (most * each)))
        keeps = int(self._starts[-1]) * each <= MEMORY_SHARE * machine_memory()
        if decode == "processes" or (decode == "auto" and self._is_costly(threads)):
            processes = ProcessDecoder(Decoder(processor, crop_seed), most)
            self._decode_one = processes
            weakref.finalize(self, processes.close)
        if keeps and not self._is_cropped:
            self._kept = self._decode_all()
        elif known_bad is None:
            self._look_at_headers()

    @property
    def all_in_memory(self) -> bool:
        """Whether every file was decoded at the start."""
        return self._kept is not None

    def size(self, number: int) -> Size:
        """Width and height, where they were said."""
        if not len(self._sizes):
            return BLANK
        width, height = self._sizes[number].tolist()
        return width, height

    def _is_costly(self, threads: int) -> bool:
        """Whether helper processes would earn what their start takes."""
        some = range(min(PROBES, len(self.sources)))
        if threads < 2 or not some:
            return False
        started = time.monotonic()
        for number in some:
            self._decode(number, note=False)
        each_s = (time.monotonic() - started) / len(some)
        return each_s >= COSTLY_S and each_s * len(self.sources) >= WORTH_S

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
        started = time.monotonic()
        found = {draw: self._ahead.pop(draw)[1].result() for draw in dict.fromkeys(asked)}
        self.waited_s += time.monotonic() - started
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
        if not self._is_cropped or draws is None:
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
        return int(self._starts[number + 1] - self._starts[number])

    def _tile_starts(self) -> np.ndarray:
        """Number of each picture's first square, and of all."""
        if self.processor.fit_mode != "anyres":
            return np.arange(len(self.sources) + 1)
        side, tiles = self.processor.size, [0]
        for width, height in self._sizes.tolist():
            across, down = best_resolution((width, height), self.processor.pinpoints)
            tiles.append(1 + (across // side) * (down // side))
        return np.cumsum(tiles)

    def _decode_all(self) -> Tensor:
        size = self.processor.size
        kept = torch.zeros(int(self._starts[-1]), size, size, 3, dtype=torch.uint8)
        for number, picture in self._over_all(self._decode):
            kept[self._starts[number] : self._starts[number + 1]] = torch.from_numpy(picture)
        return kept

    def _look_at_headers(self) -> None:
        for number, why in self._over_all(self._fault):
            if why is not None:
                self.bad[number] = why

    def _over_all(self, work: Callable[[int], Each]) -> Iterator[tuple[int, Each]]:
        """What the threads make of every picture, a few at a time: a million tasks weigh much."""
        for start in range(0, len(self.sources), AT_ONCE):
            some = range(start, min(start + AT_ONCE, len(self.sources)))
            yield from zip(some, self._pool.map(work, some), strict=True)

    def _fault(self, number: int) -> str | None:
        """Why a picture's header cannot be read."""
        try:
            header_size(content_of(self.sources[number]))
        except DataError as error:
            return str(error)
        return None

    def _decode(self, number: int, draw: int = 0, *, note: bool = True) -> np.ndarray:
        """uint8 [tiles, S, S, 3]; black where it cannot be read."""
        try:
            return self._decode_one(self.sources[number], draw, self.tiles(number))
        except DataError as error:
            if note:
                self.bad[number] = str(error)
            side = self.processor.size
            return np.zeros((self.tiles(number), side, side, 3), dtype=np.uint8)


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
