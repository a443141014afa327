"""Pixels of a native model's rows, made by its own processor just before they are needed."""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from PIL import Image
from torch import Tensor, nn

from vlforge.data.images import load_rgb
from vlforge.models.native import PER_TOKEN, NativeModel
from vlforge.models.native_outline import Size, blank
from vlforge.training.picture_sources import Source, content_of, name_of
from vlforge.training.pictures import AHEAD_SHARE, machine_memory
from vlforge.types import DataError, ModelError

Images = tuple[int, ...]
"""Numbers of a row's pictures, in order."""


class NativePictures:
    """A row's pictures as tensors for the model: decoded and preprocessed by threads.

    A processor sees all pictures of a row at once, as it does when it is given the row.
    Nothing is kept of a row once it was taken. `bad` grows with pictures that cannot be
    read: black ones of their sizes stand for them.
    """

    all_in_memory = False

    def __init__(
        self,
        native: NativeModel,
        sources: Sequence[Source],
        sizes: Any,
        threads: int = 1,
    ):
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
        return pixels_of(self._processor(), [self._decode(image) for image in images])

    def _processor(self) -> NativeModel:
        """This thread's own: tokenizers are not made for several at once."""
        if not hasattr(self._own, "native"):
            self._own.native = NativeModel(nn.Identity(), copy.deepcopy(self._native.processor))
        native: NativeModel = self._own.native
        return native

    def _decode(self, number: int) -> Image.Image:
        size = self.size(number)
        try:
            image = load_rgb(content_of(self.sources[number]))
            if image.size != size:
                raise DataError(
                    f"{name_of(self.sources[number])} is {image.size[0]} x {image.size[1]} and was "
                    f"{size[0]} x {size[1]} when its row was read"
                )
            return image
        except DataError as error:
            self.bad[number] = str(error)
            return blank(size)


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
