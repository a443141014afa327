"""What a native model's processor writes for a picture, from the picture's size alone.

A processor that tells how many tokens a picture takes, and writes nothing but these,
is asked for the number. Any other is shown a blank picture, once for each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from vlforge.models.native import PER_TOKEN, NativeEncoded, NativeModel
from vlforge.text.templates import Template
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, ModelError, Sample, Turn

Size = tuple[int, int]
PROBES: tuple[Size, ...] = ((64, 64), (300, 200), (97, 401), (1280, 720))
"""Sizes on which a processor's number is compared with what it writes."""
_ASKED = (Turn("user", f"{LLAVA_IMAGE_TOKEN}\nwhat?"), Turn("assistant", "it."))


class Outliner:
    """Encodes samples without reading their pictures.

    Ids and labels are those of `NativeModel.encode`. A processor that does more to a text
    than to replace pictures is not guessed at: it gets blank pictures of the right sizes,
    `is_slow`.
    """

    def __init__(self, native: NativeModel):
        self.native = native
        self._known: dict[Size, str] = {}
        self._is_plain: bool | None = None
        self._slow: bool | None = None

    def __call__(
        self,
        sample: Sample,
        sizes: Sequence[Size],
        template: Template | None = None,
        max_length: int | None = None,
    ) -> NativeEncoded:
        """One sample, its pictures known by width and height.

        `inputs` hold what there is for each token and nothing of the pixels.

        Raises:
            DataError: as `NativeModel.encode`.
        """
        if self.is_slow(template):
            return self._blank(sample, sizes, template).cut(max_length)
        row = self.native.outline(sample, [self.stand_in(size) for size in sizes], template)
        return replace(row, inputs=self.native.per_token(row.ids)).cut(max_length)

    def is_slow(self, template: Template | None = None) -> bool:
        """Whether every sample takes blank pictures."""
        if self._slow is None:
            sample = Sample("probe", ("",), _ASKED)
            try:
                sizes = PROBES[1:2]
                row = self.native.outline(sample, [self.stand_in(sizes[0])], template)
                whole = self._blank(sample, sizes, template)
                told = self.native.per_token(row.ids)
                same = {k: v.tolist() for k, v in whole.inputs.items() if k in PER_TOKEN}
                self._slow = (row.ids, row.labels) != (whole.ids, whole.labels)
                self._slow |= same != {key: value.tolist() for key, value in told.items()}
            except DataError:
                # A template that cannot hold the probe tells nothing; nothing is guessed then.
                self._slow = True
        return self._slow

    def stand_in(self, size: Size) -> str:
        """What the processor writes for a picture of a size."""
        if self._plain():
            return (self.native.image_token or "") * self.native.count([size])[0]
        if size not in self._known:
            self._known[size] = written_for(self.native, size)
        return self._known[size]

    def _plain(self) -> bool:
        if self._is_plain is None:
            mark = self.native.image_token or ""
            try:
                told = [mark * count for count in self.native.count(PROBES)]
            except (ModelError, AttributeError, TypeError, KeyError, ValueError):
                told = []
            self._is_plain = told == [written_for(self.native, size) for size in PROBES]
        return self._is_plain

    def _blank(
        self, sample: Sample, sizes: Sequence[Size], template: Template | None
    ) -> NativeEncoded:
        row = self.native.encode(sample, [blank(size) for size in sizes], template)
        return replace(row, inputs={k: v for k, v in row.inputs.items() if k in PER_TOKEN})


def blank(size: Size) -> Image.Image:
    """A black picture."""
    return Image.new("RGB", size)


def written_for(native: NativeModel, size: Size) -> str:
    """What the processor writes for a picture of a size, asked with a blank one.

    Raises:
        DataError: it refuses such a picture.
        ModelError: it does not tell what it writes.
    """
    _, _, replaced, _ = native.expand(native.image_token or "", [blank(size)])
    if len(replaced) != 1:
        kind = type(native.processor).__name__
        raise ModelError(f"{kind} does not tell where pictures stand; this model cannot be trained")
    return str(replaced[0]["replacement"])
