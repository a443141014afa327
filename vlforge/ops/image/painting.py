"""New pictures for rows by a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import Grown, look_up
from vlforge.ops.batch import Batch, Item, drop_of
from vlforge.ops.image.copies import Copy, PictureWriter
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.ops.synthesis.writing import request_key
from vlforge.types import Drop, Need, RecipeError, Refusal, Row

if TYPE_CHECKING:
    from PIL.Image import Image

OPENING = "A photo of a"
"""What a generated caption starts with, before it tells a model what to draw."""
REFUSED = "diffusion_refused"
"""Statistic of rows some of whose variants the model held back: how many."""
_AT_ONCE = 64


@dataclass(frozen=True)
class _Ask:
    """One picture to draw: its row's place in the batch, the variant, its place in the row."""

    row: int
    variant: int
    place: int
    image: Image
    words: str


@dataclass(frozen=True, kw_only=True)
class ImageDiffusionMapper(PictureWriter):
    """Draw new versions of a row's pictures with a diffusion model (image to image).

    `hf_diffusion` is a folder in diffusers' layout (Stable Diffusion, SDXL …; needs the
    extra `diffusion`). What is drawn is told by `caption_key`, a field with one caption or
    one per picture; without it, by a caption that the model `hf_img2seq` writes, made to
    start with "A photo of a". `strength` (0 to 1) says how far a picture may go from the
    old one, `guidance_scale` how closely it follows the words. Each of `aug_num` variants
    is a row with all pictures drawn anew and the text as it was; with
    `keep_original_sample` the row itself stays before them.

    Drawn at the model's size and near to the picture's shape, then brought back to the
    picture's size. A picture that the model's safety checker holds back is drawn again with
    other noise, `try_num` times in all; then its variant is left out and counted in the
    statistic `diffusion_refused`, and a row of which nothing is left is dropped. The noise
    depends on the run's seed and the row. Copies lie in `save_dir`, or else in the run's
    folder under `produced/image_diffusion_mapper`; new rows tell their `provenance`.

    Different: Data-Juicer squeezes pictures into 512 x 512, draws without a seed and tries
    for ever while the checker refuses; `compat: data_juicer` squeezes too. `revision` has
    no meaning for a folder.
    """

    hf_diffusion: str = "CompVis/stable-diffusion-v1-4"
    torch_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    revision: str = "main"
    strength: float = 0.8
    guidance_scale: float = 7.5
    aug_num: int = 1
    keep_original_sample: bool = True
    caption_key: str | None = None
    hf_img2seq: str = "Salesforce/blip2-opt-2.7b"
    steps: int = 50
    try_num: int = 3

    needs: ClassVar = Need.MODEL
    op_name: ClassVar[str] = "image_diffusion_mapper"

    def __post_init__(self) -> None:
        self.check_copies()
        op = self.op_name
        if not 0 < self.strength <= 1:
            raise RecipeError(f"{op}.strength is {self.strength}, not above 0 and up to 1")
        if int(self.steps * self.strength) < 1:
            raise RecipeError(f"{op}: {self.steps} steps at strength {self.strength} draw nothing")
        if self.aug_num < 1 or self.try_num < 1:
            raise RecipeError(f"{op}: aug_num and try_num are 1 or more")

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        listed = batch.image_files(self)
        faults: dict[int, Drop] = {}
        images: dict[int, list[Image]] = {}
        for at, files in enumerate(listed):
            try:
                images[at] = [batch.files.rgb(file) for file in files]
            except ImageError as error:
                faults[at] = drop_of(error)
        words = self._words(batch, images)
        faults |= {at: said for at, said in words.items() if isinstance(said, Drop)}
        asked = [
            _Ask(at, variant, place, image, said)
            for at, told in words.items()
            if not isinstance(told, Drop)
            for variant in range(self.aug_num)
            for place, (image, said) in enumerate(zip(images[at], told, strict=True))
        ]
        drawn = self._drawn(batch, asked)
        return [
            faults[at] if at in faults else self._grown(batch, at, files, asked, drawn)
            for at, files in enumerate(listed)
        ]

    def _words(
        self, batch: Batch, images: Mapping[int, Sequence[Image]]
    ) -> Mapping[int, list[str] | Drop]:
        """What to draw for each picture of each row."""
        if self.caption_key is None:
            return self._captions(batch, images)
        return {
            at: self._told(look_up(batch.items[at].row, self.caption_key), len(own))
            for at, own in images.items()
        }

    def _told(self, told: Any, count: int) -> list[str] | Drop:
        if not count:
            return []
        words = [told] * count if isinstance(told, str) else told
        is_list = isinstance(words, list) and len(words) == count
        if is_list and all(isinstance(one, str) for one in words):
            return list(words)
        return Drop("", "no caption for each picture", self.caption_key, told)

    def _captions(
        self, batch: Batch, images: Mapping[int, Sequence[Image]]
    ) -> dict[int, list[str] | Drop]:
        told: dict[int, list[str]] = {at: [] for at in images}
        faults: dict[int, Drop] = {}
        asked = [(at, place) for at, own in images.items() for place in range(len(own))]
        if not asked:
            return dict(told)
        captioner = batch.context.captioner(self.hf_img2seq, self.op_name)
        name, seed = f"{self.op_name} caption", batch.context.seed
        keys = [request_key(seed, name, batch.items[at].uid, place) for at, place in asked]
        shown = [images[at][place] for at, place in asked]
        written = captioner.caption(shown, [OPENING] * len(shown), 1, keys)
        for (at, _), candidates in zip(asked, written, strict=True):
            if isinstance(candidates, Refusal):
                faults[at] = Drop("", candidates.reason, None, candidates.detail or None)
            else:
                told[at].append(_opened(candidates[0].text))
        return {**told, **faults}

    def _drawn(self, batch: Batch, asked: Sequence[_Ask]) -> list[Image | Refusal]:
        """The new picture of each, tried again while the model holds it back."""
        found: list[Image | Refusal] = [Refusal("not drawn")] * len(asked)
        left = list(range(len(asked)))
        for attempt in range(self.try_num):
            again: list[int] = []
            for begin in range(0, len(left), _AT_ONCE):
                some = left[begin : begin + _AT_ONCE]
                made = self._some(batch, [asked[at] for at in some], attempt)
                for at, one in zip(some, made, strict=True):
                    found[at] = one
                again += [at for at in some if isinstance(found[at], Refusal)]
            left = again
        return found

    def _some(self, batch: Batch, some: Sequence[_Ask], attempt: int) -> list[Image | Refusal]:
        painter = batch.context.painter(self.hf_diffusion, self.op_name)
        seed = batch.context.seed
        keys = [
            request_key(
                seed, f"{self.op_name} {one.variant}", batch.items[one.row].uid, one.place, attempt
            )
            for one in some
        ]
        return painter.paint(
            [one.image for one in some],
            [one.words for one in some],
            keys,
            strength=self.strength,
            guidance_scale=self.guidance_scale,
            steps=self.steps,
            dtype=self.torch_dtype,
            is_square=self.compat == "data_juicer",
        )

    def _grown(
        self,
        batch: Batch,
        at: int,
        files: Sequence[ImageFile],
        asked: Sequence[_Ask],
        drawn: Sequence[Image | Refusal],
    ) -> Grown | Row | Drop:
        item = batch.items[at]
        if not files:
            return item.row
        mine = [(one, made) for one, made in zip(asked, drawn, strict=True) if one.row == at]
        rows: list[Row] = []
        refusals: list[Refusal] = []
        for variant in range(self.aug_num):
            own = [(one, made) for one, made in mine if one.variant == variant]
            refused = [made for _, made in own if isinstance(made, Refusal)]
            if refused:
                refusals.append(refused[0])
                continue
            try:
                copies = [
                    self.saved(made, file, batch)
                    for (_, made), file in zip(own, files, strict=True)
                    if not isinstance(made, Refusal)
                ]
            except ImageError as error:
                return drop_of(error)
            rows.append(self._made(batch, item, files, copies, [one.words for one, _ in own]))
        if refusals:
            item.stats[REFUSED] = len(refusals)
        if not rows and not self.keep_original_sample:
            return Drop("", refusals[0].reason, None, refusals[0].detail or None)
        return Grown(self.keep_original_sample, tuple(rows))

    def _made(
        self,
        batch: Batch,
        item: Item,
        files: Sequence[ImageFile],
        copies: Sequence[Copy],
        words: Sequence[str],
    ) -> Row:
        row = self._row(item.row, files, copies)
        if self.compat == "data_juicer":
            return row
        entry = origin(
            self.op_name,
            item.uid,
            model=self.hf_diffusion,
            seed=batch.context.seed,
            words=list(words),
            strength=self.strength,
        )
        return with_origin(row, entry)


def _opened(caption: str) -> str:
    """The caption behind the opening, unless it starts with it by itself."""
    text = caption.strip()
    return text if text.lower().startswith(OPENING.lower()) else f"{OPENING} {text}"
