"""Decoding pictures before a model asks for them, in threads, some megabytes ahead.

What a step will ask for is known once it has asked for one picture: its rows' pictures,
in order. From then on each block's pictures are decoded as soon as the block is here, while
the model is still at the block before it. Pillow decodes outside Python's lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlforge.data.images import ImageError, ImageFile, to_rgb
from vlforge.ops.batch import Batch, Files
from vlforge.ops.bind import Bound
from vlforge.types import Need

if TYPE_CHECKING:
    from PIL.Image import Image

AHEAD_BYTES = 64 << 20
"""Most bytes of decoded pictures of one block that wait to be asked for."""
_THREADS = 2


class Decoder:
    """The threads of a process that decode ahead, the oldest block's pictures first."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.asking: set[int] = set()
        """Places of the operators that are known to ask for pictures."""
        self._blocks: list[AheadFiles] = []
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def add(self, files: AheadFiles) -> None:
        """One more block; blocks are worked on in the order in which they were added."""
        with self.changed:
            self._blocks.append(files)

    def remove(self, files: AheadFiles) -> None:
        """A block that is done with."""
        with self.changed:
            self._blocks.remove(files)
            self.changed.notify_all()

    def wake(self) -> None:
        """Something was queued: let the threads look."""
        if not self._threads and not self._is_closed:
            self._threads = [
                threading.Thread(target=self._decode, daemon=True) for _ in range(_THREADS)
            ]
            for thread in self._threads:
                thread.start()
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        """End the threads; a picture that is being decoded is finished."""
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _decode(self) -> None:
        while (entry := self._next()) is not None:
            entry.decode()
            with self.changed:
                entry.files.held += entry.bytes
                entry.is_done = True
                self.changed.notify_all()

    def _next(self) -> _Entry | None:
        """Wait for a picture to decode; None: no more come."""
        with self.changed:
            while not self._is_closed:
                found = next((one for files in self._blocks if (one := files.first())), None)
                if found is not None:
                    return found
                self.changed.wait()
        return None


class _Entry:
    """A picture that will be asked for."""

    def __init__(self, files: AheadFiles, file: ImageFile):
        # A file of its own: the first one may be read by the model's thread at the same time.
        self.file = ImageFile(file.path, file.content() if file.is_given else None)
        self.files = files
        self.is_begun = self.is_done = False
        self.found: Image | Exception | None = None
        self.bytes = 0

    def decode(self) -> None:
        """Open the picture, or find out why it cannot be."""
        try:
            image = self.file.picture().upright
        except Exception as error:
            self.found = error
        else:
            self.found, self.bytes = image, image.width * image.height * len(image.getbands())


class AheadFiles(Files):
    """The pictures of a block, decoded ahead of the step that asks for them."""

    def __init__(self, viewers: Sequence[Any], decoder: Decoder):
        super().__init__(viewers)
        self.decoder = decoder
        self.held = 0
        self._place: int | None = None
        self._listed = self._asked = 0
        self._batch: tuple[Batch, Any] | None = None
        self._queue: deque[_Entry] = deque()
        self._entries: dict[ImageFile, _Entry] = {}
        decoder.add(self)

    def begin(self, bound: Bound, batch: Batch) -> None:
        """The step that comes next, or now, and its rows; not new where it was told before."""
        if bound.place == self._place:
            return
        self._let_go()
        self._place = bound.place
        self._batch = (batch, bound.op) if bound.op.needs >= Need.EMBEDDING else None
        if bound.place in self.decoder.asking:
            self._enqueue()

    def first(self) -> _Entry | None:
        """The next picture to decode, marked as begun; None where there is none, or no room."""
        while self._queue and self.held < AHEAD_BYTES:
            entry = self._queue.popleft()
            if not entry.is_begun:
                entry.is_begun = True
                return entry
        return None

    def rgb(self, file: ImageFile) -> Image:
        """The picture in RGB; a cut-off file raises. Decoded once while the cache lasts."""
        self._asked += 1
        if (file, False) in self._decoded:
            return super().rgb(file)
        if self._place is not None and self._place not in self.decoder.asking:
            self.decoder.asking.add(self._place)
            self._enqueue()
        found = self._taken(file)
        if isinstance(found, ImageError):
            # Told anew: an error keeps the frames that it went through.
            raise ImageError(found.reason, str(found))
        if found is None or isinstance(found, Exception):
            return super().rgb(file)
        self._keep(file, False, found)
        return to_rgb(found)

    def close(self) -> None:
        """Nothing more is asked for."""
        self._let_go()
        self.decoder.remove(self)

    def _taken(self, file: ImageFile) -> Image | Exception | None:
        """What was decoded ahead; None where the picture was not begun, and will not be."""
        with self.decoder.changed:
            entry = self._entries.pop(file, None)
            if entry is None or not entry.is_begun:
                if entry is not None:
                    entry.is_begun = True
                return None
            while not entry.is_done:
                self.decoder.changed.wait()
            self.held -= entry.bytes
            self.decoder.changed.notify_all()
            return entry.found

    def _enqueue(self) -> None:
        if self._batch is None:
            return
        batch, op = self._batch
        self._batch = None
        with self.decoder.changed:
            for file in (file for files in batch.image_files(op) for file in files):
                if file not in self._entries and (file, False) not in self._decoded:
                    self._entries[file] = entry = _Entry(self, file)
                    self._queue.append(entry)
                    self._listed += 1
        self.decoder.wake()

    def _let_go(self) -> None:
        """What was decoded and not asked for is no longer wanted."""
        if self._place is not None and 2 * self._asked < self._listed:
            # It asks for few: another operator's look at the pictures does for it.
            self.decoder.asking.discard(self._place)
        self._listed = self._asked = 0
        with self.decoder.changed:
            self._queue.clear()
            left, self._entries = self._entries, {}
            while any(entry.is_begun and not entry.is_done for entry in left.values()):
                self.decoder.changed.wait()
            self.held -= sum(entry.bytes for entry in left.values() if entry.is_done)
            self.decoder.changed.notify_all()
