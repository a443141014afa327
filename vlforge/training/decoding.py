"""A picture decoded and fitted, in a thread of this process or in a helper process.

Shapes: S pixels a side.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlforge.data.images import load_rgb
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.random_crop import CroppingProcessor
from vlforge.training.picture_sources import Source, Stored, content_of, name_of
from vlforge.training.workers import Worker, Workers
from vlforge.types import DataError

Decode = Callable[[Source, int, int], np.ndarray]
"""(source, draw, tiles) -> uint8 [tiles, S, S, 3]; raises DataError where it cannot be read."""


@dataclass(frozen=True)
class Decoder:
    """Decodes and fits a picture; with `crop_seed` a part of it, another for each draw."""

    processor: ImageProcessor
    crop_seed: int | None = None

    def __call__(self, source: Source | bytes, draw: int, tiles: int) -> np.ndarray:
        """uint8 [tiles, S, S, 3].

        Raises:
            DataError: it cannot be read, or has other tiles than its row was encoded for.
        """
        image = load_rgb(source if isinstance(source, bytes) else content_of(source))
        fitted = np.array(self._fit(image, draw))
        side = self.processor.size
        if fitted.size != tiles * side * side * 3:
            raise DataError("picture has another shape than when its row was read")
        return fitted.reshape(tiles, side, side, 3)

    def _fit(self, image: Image.Image, draw: int) -> Any:
        if self.crop_seed is None:
            return self.processor.fit(image)
        return Cropping.of(self.processor, self.crop_seed)(image, draw)


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


class ProcessDecoder:
    """A `Decoder` whose work is done by helper processes, as many as threads ask."""

    def __init__(self, decoder: Decoder, most_tiles: int):
        """
        Args:
            most_tiles: of any picture: how much memory is shared with each process.
        """
        self._side = decoder.processor.size
        shared = most_tiles * self._side**2 * 3
        self.workers = Workers(lambda: Worker(DecodingHelper, (decoder,), shared))

    def __call__(self, source: Source, draw: int, tiles: int) -> np.ndarray:
        """As `Decoder`."""
        # A file without a name is this process's own: its pictures travel as they are.
        told = source.read() if isinstance(source, Stored) else source
        shape = (tiles, self._side, self._side, 3)

        def take(worker: Worker, _: Any) -> np.ndarray:
            assert worker.memory is not None
            return np.frombuffer(worker.memory, np.uint8, int(np.prod(shape))).reshape(shape).copy()

        return self.workers.ask((told, draw, tiles), name_of(source), take)

    def close(self) -> None:
        """End the processes."""
        self.workers.close()


class DecodingHelper:
    """A `Decoder` in a helper process: pictures are left in the shared memory."""

    def __init__(self, memory: mmap.mmap, decoder: Decoder):
        torch.set_num_threads(1)
        self._memory, self._decoder = np.frombuffer(memory, np.uint8), decoder

    def __call__(self, question: tuple[Source | bytes, int, int]) -> None:
        """Decode a (source, draw, tiles)."""
        picture = self._decoder(*question)
        self._memory[: picture.size] = picture.ravel()
