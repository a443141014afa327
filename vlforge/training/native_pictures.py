"""Pixels of a native model's rows, made by its own processor just before they are needed."""

from __future__ import annotations

import copy
import mmap
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlforge.data.images import load_rgb
from vlforge.models.native import PER_TOKEN, NativeModel
from vlforge.models.native_outline import Size, blank
from vlforge.models.parts.native_processor import open_processor
from vlforge.training.picture_sources import Source, content_of, name_of
from vlforge.training.pictures import (
    AHEAD_SHARE,
    COSTLY_S,
    PROBES,
    WORTH_S,
    machine_memory,
)
from vlforge.training.workers import Worker, Workers
from vlforge.types import DataError, ModelError

Images = tuple[int, ...]
"""Numbers of a row's pictures, in order."""


class NativePictures:
    """A row's pictures as tensors for the model: decoded and preprocessed just in time.

    In threads of this process, or with `decode: processes` each thread in a helper process;
    auto takes those where pictures are costly and many. A processor sees all pictures of a
    row at once, as it does when it is given the row. Nothing is kept of a row once it was
    taken. `bad` grows with pictures that cannot be read: black ones of their sizes stand for
    them.
    """

    all_in_memory = False

    def __init__(
        self,
        native: NativeModel,
        sources: Sequence[Source],
        sizes: Any,
        threads: int = 1,
        *,
        decode: Literal["auto", "threads", "processes"] = "threads",
        folder: Path | None = None,
    ):
        """
        Args:
            sizes: width and height of each picture.
            folder: where the processor is read from; helper processes need it.
        """
        self.sources, self.sizes = sources, sizes
        self.bad: dict[int, str] = {}
        self.waited_s = 0.0
        self._native = native
        self._own = threading.local()
        self._threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self._threads)
        self._ahead: dict[Images, tuple[int, Future[dict[str, Tensor]]]] = {}
        self._waiting: deque[Images] = deque()
        self._largest = 1
        self._turn = 0
        self._workers: Workers | None = None
        asked = decode == "processes" or (decode == "auto" and self._is_costly())
        if asked and folder is not None:
            workers = Workers(lambda: Worker(PixelHelper, (str(folder),)))
            self._workers = workers
            weakref.finalize(self, workers.close)

    def size(self, number: int) -> Size:
        """Width and height of a picture."""
        width, height = self.sizes[number]
        return int(width), int(height)

    def take(self, images: Images) -> dict[str, Tensor]:
        """What the model takes of a row's pictures beside ids."""
        if not images:
            return {}
        if images not in self._ahead:
            self._submit(images)
        started = time.monotonic()
        made = self._ahead.pop(images)[1].result()
        self.waited_s += time.monotonic() - started
        self._largest = max(self._largest, sum(t.numel() * t.element_size() for t in made.values()))
        self._submit_waiting()
        return made

    def prefetch(self, rows: Sequence[Images]) -> None:
        """Start on rows that will be taken after the next call of this."""
        self._turn += 1
        for images in [one for one, (turn, _) in self._ahead.items() if turn < self._turn - 1]:
            self._ahead.pop(images)[1].cancel()
        self._waiting = deque(images for images in dict.fromkeys(rows) if images)
        self._submit_waiting()

    def _submit_waiting(self) -> None:
        room = max(2 * self._threads, int(AHEAD_SHARE * machine_memory() / self._largest))
        while self._waiting and len(self._ahead) < room:
            images = self._waiting.popleft()
            if images not in self._ahead:
                self._submit(images)

    def _submit(self, images: Images) -> None:
        self._ahead[images] = (self._turn, self._pool.submit(self._prepare, images))

    def _prepare(self, images: Images) -> dict[str, Tensor]:
        question = [(self.sources[image], self.size(image)) for image in images]
        if self._workers is None:
            made, faults = self._maker()(question)
        else:
            name = ", ".join(name_of(source) for source, _ in question)
            made, faults = self._workers.ask(question, name, lambda _, answer: answer)
        for image, fault in zip(images, faults, strict=True):
            if fault is not None:
                self.bad[image] = fault
        return {key: torch.from_numpy(value) for key, value in made.items()}

    def _maker(self) -> PixelMaker:
        """This thread's own: tokenizers are not made for several at once."""
        if not hasattr(self._own, "maker"):
            processor = copy.deepcopy(self._native.processor)
            self._own.maker = PixelMaker(NativeModel(nn.Identity(), processor))
        maker: PixelMaker = self._own.maker
        return maker

    def _is_costly(self) -> bool:
        """Whether helper processes are worth their start, by the first pictures."""
        if self._threads < 2 or not len(self.sources):
            return False
        probes = range(min(PROBES, len(self.sources)))
        started = time.monotonic()
        for number in probes:
            self._maker()([(self.sources[number], self.size(number))])
        each_s = (time.monotonic() - started) / len(probes)
        return each_s >= COSTLY_S and each_s * len(self.sources) >= WORTH_S


Question = list[tuple[Source, Size]]
"""A row's pictures, each with the size that it had when its row was read."""


class PixelMaker:
    """Decodes a row's pictures and has the processor make the model's tensors of them."""

    def __init__(self, native: NativeModel):
        self._native = native

    def __call__(self, question: Question) -> tuple[dict[str, np.ndarray], list[str | None]]:
        """Tensors as arrays, and of each picture why it is black, or None.

        Raises:
            ModelError: the processor refuses pictures that it took by their sizes.
        """
        opened = [_decoded(source, size) for source, size in question]
        made = pixels_of(self._native, [image for image, _ in opened])
        return {key: value.numpy() for key, value in made.items()}, [why for _, why in opened]


class PixelHelper(PixelMaker):
    """A `PixelMaker` in a helper process."""

    def __init__(self, memory: mmap.mmap | None, folder: str):
        torch.set_num_threads(1)
        super().__init__(NativeModel(nn.Identity(), open_processor(Path(folder))))


def _decoded(source: Source, size: Size) -> tuple[Image.Image, str | None]:
    """A picture, or a black one and why."""
    try:
        image = load_rgb(content_of(source))
        if image.size != size:
            raise DataError(
                f"{name_of(source)} is {image.size[0]} x {image.size[1]} and was "
                f"{size[0]} x {size[1]} when its row was read"
            )
    except DataError as error:
        return blank(size), str(error)
    return image, None


def pixels_of(native: NativeModel, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """What a row with these pictures holds beside what is said of each token.

    Raises:
        ModelError: the processor refuses pictures that it took by their sizes.
    """
    try:
        _, _, _, inputs = native.expand((native.image_token or "") * len(images), images)
    except DataError as error:
        raise ModelError(f"pictures of {[image.size for image in images]}: {error}") from None
    return {key: value for key, value in inputs.items() if key not in PER_TOKEN}
