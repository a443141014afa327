"""Pairs of pictures that differ in what a phrase says, drawn by a diffusion model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlforge.ops.base import Grown, RowMapper
from vlforge.ops.batch import Batch
from vlforge.ops.image.copies import copy_name, encoded, write_whole
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.ops.synthesis.writing import request_key
from vlforge.types import Drop, Need, RecipeError, Refusal, Row

if TYPE_CHECKING:
    from PIL.Image import Image

PATHS = ("image_path1", "image_path2")
"""Fields of a row that name its two pictures."""


@dataclass(frozen=True, kw_only=True)
class SdxlPrompt2promptMapper(RowMapper):
    """Draw a pair of pictures for two captions that differ in a phrase (prompt-to-prompt).

    The captions stand in `text_key` and `text_key_second`, without special tokens. Both
    pictures start from the same noise; the second's attention follows the first's, so that
    what both captions say looks the same and what differs is drawn anew. `hf_diffusion` is
    a folder of SDXL (or Stable Diffusion) in diffusers' layout; needs the extra
    `diffusion`. The row gets `image_path1` and `image_path2`; the pictures lie in
    `output_dir`, or else in the run's folder under `produced/sdxl_prompt2prompt_mapper`.

    The noise depends on the run's seed and the row, where Data-Juicer draws it by chance;
    its pictures lie in its folder of downloads. A row without both captions is dropped,
    and one that the model's safety checker holds back `try_num` times.

    Source: Hertz et al. 2022; the shares of steps are Data-Juicer's.
    """

    hf_diffusion: str = "stabilityai/stable-diffusion-xl-base-1.0"
    torch_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    text_key_second: str | None = None
    output_dir: str = ""
    try_num: int = 3

    needs: ClassVar = Need.MODEL
    op_name: ClassVar[str] = "sdxl_prompt2prompt_mapper"

    def __post_init__(self) -> None:
        if not self.text_key_second:
            raise RecipeError(f"{self.op_name} needs text_key_second: the second caption's field")
        if self.num_inference_steps < 1 or self.try_num < 1:
            raise RecipeError(f"{self.op_name}: num_inference_steps and try_num are 1 or more")

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        firsts = batch.texts(self.text_key)
        seconds = batch.texts(self.text_key_second or "")
        return [
            self._row(batch, at, batch.context.plain(first), batch.context.plain(second))
            for at, (first, second) in enumerate(zip(firsts, seconds, strict=True))
        ]

    def _row(self, batch: Batch, at: int, first: str, second: str) -> Row | Drop:
        item = batch.items[at]
        if not first or not second:
            missing = self.text_key if not first else self.text_key_second
            return Drop("", "no pair of captions", missing, first or second)
        drawn = self._drawn(batch, item.uid, first, second)
        if isinstance(drawn, Refusal):
            return Drop("", drawn.reason, None, drawn.detail or None)
        width = drawn.width // 2
        halves = [drawn.crop((at, 0, at + width, drawn.height)) for at in (0, width)]
        paths = [
            self._saved(batch, image, f"image_pair_{number}.jpg")
            for number, image in enumerate(halves, 1)
        ]
        row = {**item.row, **dict(zip(PATHS, paths, strict=True))}
        if self.compat == "data_juicer":
            return row
        entry = origin(self.op_name, item.uid, model=self.hf_diffusion, seed=batch.context.seed)
        return with_origin(row, entry)

    def _drawn(self, batch: Batch, uid: str, first: str, second: str) -> Image | Refusal:
        from PIL import Image as pillow

        painter = batch.context.painter(self.hf_diffusion, self.op_name)
        found: Image | Refusal = Refusal("not drawn")
        for attempt in range(self.try_num):
            (found,) = painter.paint(
                [pillow.new("RGB", (1, 1))],
                [first],
                [request_key(batch.context.seed, self.op_name, uid, 0, attempt)],
                second=second,
                steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                dtype=self.torch_dtype,
            )
            if not isinstance(found, Refusal):
                break
        return found

    def _saved(self, batch: Batch, image: Image, name: str) -> str:
        folder = self.output_dir or os.path.join(batch.context.produced, self.op_name)
        if not self.output_dir and not batch.context.produced:
            raise RecipeError(f"{self.op_name} has nowhere to write pictures: set output_dir")
        content = encoded(image, "JPEG", 95)
        path = os.path.join(os.path.abspath(folder), copy_name(name, content, ".jpg"))
        write_whole(path, content)
        return path
