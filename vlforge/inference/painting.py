"""Diffusion models that draw new pictures from pictures: folders in diffusers' layout.

I pictures. What a picture becomes depends on itself, its words and its key alone.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlforge.inference.load import PRECISIONS, pick_device, quiet
from vlforge.inference.prompts import Batches
from vlforge.models.reading import first_line
from vlforge.types import ModelError, Refusal

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.local import LocalModels

UNSAFE = "refused by the safety checker"
"""Reason of pictures that the model's own checker holds back."""
_USUAL_SIDE = 512
_WIDEST = 4
"""Longer side over the shorter, beyond which a picture is squeezed."""
_ERRORS = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError, RuntimeError)

Asked = tuple["Image", str, int]
"""A picture at the model's size, the words, the key."""


def open_painter(models: LocalModels, path: str) -> LocalPainter:
    """The diffusion model in the folder `path`, opened once per process.

    Raises:
        ModelError: no such folder, one of something else, or diffusers is not installed.
    """
    made: LocalPainter = models.keep(("painter", path), lambda: LocalPainter(models, path))
    return made


class LocalPainter:
    """Draws with a folder in diffusers' layout; a `Painter`.

    Its weights are read when the first picture is asked for, in the precision that is
    asked for then. Code in the folder is not run.
    """

    def __init__(self, models: LocalModels, path: str):
        self.path = Path(path)
        if not (self.path / "model_index.json").is_file():
            raise ModelError(
                f"{path} is no folder of a diffusion model: there is no model_index.json; give "
                "the folder that diffusers' save_pretrained writes"
            )
        self.device = pick_device(models.device)
        self.threads = models.threads
        self.precision = models.loading.precision
        # On a CPU more at once is not quicker, and alone a picture comes out the same bit by bit.
        self.batches = Batches(1 if self.device.type == "cpu" else models.batch)
        self._pipes: dict[tuple[str, str], Any] = {}

    def paint(
        self,
        images: Sequence[Image],
        prompts: Sequence[str],
        keys: Sequence[int],
        **how: Any,
    ) -> list[Image | Refusal]:
        """One new picture of the same size per picture.

        Args:
            how: `strength` and `guidance_scale`, `steps`, `dtype` (fp32, fp16, bf16; "" as
                the run's models), and `is_square` to squeeze pictures into a square. With
                `second`, another prompt, the pictures do not count: each becomes one of two
                side by side, drawn by the prompt and by `second` from the same noise.
        """
        precision = how.get("dtype") or self.precision
        if "second" in how:
            pipe = self._pipe(precision, "AutoPipelineForText2Image")
            pairs = list(zip(prompts, keys, strict=True))
            return Batches(1).run(pairs, lambda one: [_pair(pipe, *one[0], how)], lambda _: 0)
        pipe = self._pipe(precision, "AutoPipelineForImage2Image")
        is_square = how.get("is_square", False)
        sizes = [_fitting(pipe, image.size, is_square) for image in images]
        found: list[Image | Refusal | None] = [None] * len(images)
        for size in dict.fromkeys(sizes):
            places = [at for at, own in enumerate(sizes) if own == size]
            asked = [(_resized(images[at], size), prompts[at], keys[at]) for at in places]
            made = self.batches.run(asked, lambda some: _painted(pipe, some, how), lambda _: 0)
            for at, one in zip(places, made, strict=True):
                if not isinstance(one, Refusal):
                    one = _resized(one, images[at].size)
                found[at] = one
        return [one for one in found if one is not None]

    def _pipe(self, precision: str, kind: str) -> Any:
        if (precision, kind) not in self._pipes:
            self._pipes[precision, kind] = self._opened(PRECISIONS[precision], kind)
        return self._pipes[precision, kind]

    def _opened(self, dtype: torch.dtype, kind: str) -> Any:
        try:
            with _silent():
                import diffusers
        except ImportError as error:
            raise ModelError(
                f"drawing with {self.path} needs diffusers: pip install 'vlforge[diffusion]' "
                f"({first_line(error)})"
            ) from None
        from vlforge.inference.local import set_threads

        set_threads(self.threads)
        try:
            with _silent():
                pipe = getattr(diffusers, kind).from_pretrained(
                    str(self.path), torch_dtype=dtype, local_files_only=True
                )
        except _ERRORS as error:
            raise ModelError(
                f"{self.path} cannot be opened as a model that draws: {first_line(error)}"
            ) from None
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device)


@torch.inference_mode()
def _painted(pipe: Any, asked: list[Asked], how: dict[str, Any]) -> list[Image | Refusal]:
    # Noise from the CPU is the same whatever the device draws with.
    noise = [torch.Generator("cpu").manual_seed(key) for _, _, key in asked]
    with _silent():
        out = pipe(
            prompt=[words for _, words, _ in asked],
            image=[image for image, _, _ in asked],
            generator=noise,
            strength=how.get("strength", 0.8),
            guidance_scale=how.get("guidance_scale", 7.5),
            num_inference_steps=how.get("steps", 50),
            output_type="pil",
        )
    unsafe = getattr(out, "nsfw_content_detected", None) or [False] * len(asked)
    return [
        Refusal(UNSAFE) if is_unsafe else image.convert("RGB")
        for image, is_unsafe in zip(out.images, unsafe, strict=True)
    ]


def _pair(pipe: Any, words: str, key: int, how: dict[str, Any]) -> Image | Refusal:
    """The pictures of two prompts side by side."""
    from PIL import Image as pillow

    from vlforge.inference.paired_painting import paint_pair

    with _silent():
        out = paint_pair(
            pipe,
            (words, how["second"]),
            key,
            how.get("steps", 50),
            how.get("guidance_scale", 7.5),
        )
    if any(getattr(out, "nsfw_content_detected", None) or ()):
        return Refusal(UNSAFE)
    left, right = (image.convert("RGB") for image in out.images)
    both = pillow.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what diffusers says about its own future and the folder's age to itself."""
    level = logging.getLogger("diffusers").level
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
        logging.getLogger("diffusers").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("diffusers").setLevel(level)


def _resized(image: Image, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    return image if image.size == size else image.resize(size, Resampling.LANCZOS)


def _fitting(pipe: Any, size: tuple[int, int], is_square: bool) -> tuple[int, int]:
    """The size to draw at: of the model's area, near to the picture's shape."""
    side, step = _side_and_step(pipe)
    if is_square:
        return side, side
    shape = min(max(size[0] / size[1], 1 / _WIDEST), _WIDEST)
    width = max(1, round(side * math.sqrt(shape) / step))
    height = max(1, round(side / math.sqrt(shape) / step))
    return width * step, height * step


def _side_and_step(pipe: Any) -> tuple[int, int]:
    """The side of the pictures a model learned from, and what sides are multiples of."""
    core = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    config = getattr(core, "config", {})
    scale = getattr(pipe, "vae_scale_factor", 8)
    sample = config.get("sample_size") or _USUAL_SIDE // scale
    latent = min(sample) if isinstance(sample, list | tuple) else int(sample)
    halvings = len(config.get("block_out_channels") or (1, 1)) - 1
    step = scale * 2**halvings
    return max(step, latent * scale // step * step), step
