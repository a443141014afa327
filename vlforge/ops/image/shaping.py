"""Bringing pictures to a size and a format that training takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.data.images import ImageFile, to_rgb
from vlforge.ops.batch import Batch, Item
from vlforge.ops.image.copies import PictureWriter
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class ImageResizeMapper(PictureWriter):
    """Bring pictures down to at most `max_side` pixels on their longest side.

    The sides keep their ratio; the filter is Pillow's LANCZOS. Smaller pictures
    stay as they are and are not even decoded, so that a cut-off small file stays,
    where a large one drops its row. Copies are upright, in the format of the
    picture: grey or RGB, with transparency where png or webp hold it.

    They lie in `save_dir`, or else in the run's folder under
    `produced/image_resize_mapper`, named after the picture and a digest of the
    copy; `__dj__source_file__` names what they were made from, in rows that
    changed. `quality` is that of jpeg and webp.

    Ours, not Data-Juicer's.
    """

    max_side: int = 1024
    quality: int | None = 90

    op_name: ClassVar = "image_resize_mapper"
    marks_all: ClassVar = False

    def __post_init__(self) -> None:
        self.check_copies()
        if self.max_side < 1:
            raise RecipeError(f"image_resize_mapper.max_side is {self.max_side}, below 1")

    def wants(self, file: ImageFile, item: Item, number: int, batch: Batch) -> bool:
        """Whether the header says that a side is too long."""
        return max(file.size()) > self.max_side

    def view(self, image: Image, is_truncated: bool) -> bool:
        """Whether a side is too long."""
        return max(image.size) > self.max_side

    def change(self, image: Image, seen: Any) -> Image:
        """The picture with its longest side brought down."""
        from PIL.Image import Resampling

        longest = max(image.size)
        width, height = (max(1, round(side * self.max_side / longest)) for side in image.size)
        return _plain(image).resize((width, height), Resampling.LANCZOS)


@dataclass(frozen=True, kw_only=True)
class ImageConvertMapper(PictureWriter):
    """Turn pictures upright, into RGB, and into one file format.

    `format` is `jpeg`, `png`, or `keep` for the picture's own. What is an upright
    RGB picture of that format stays as it is; all others are written anew:
    EXIF orientation applied, palettes, grey (16 bits scaled to 8) and CMYK made
    RGB, transparency laid over `background`, of animations the first picture.
    Every picture is decoded, so that no broken one is left.

    Copies lie in `save_dir`, or else in the run's folder under
    `produced/image_convert_mapper`, named after the picture and a digest of the
    copy; `__dj__source_file__` names what they were made from, in rows that
    changed. They carry no EXIF, so no place and no camera. `quality` is that of
    jpeg and webp.

    Ours, not Data-Juicer's.
    """

    format: Literal["jpeg", "png", "keep"] = "jpeg"
    background: str = "white"
    quality: int | None = 90

    op_name: ClassVar = "image_convert_mapper"
    marks_all: ClassVar = False

    def __post_init__(self) -> None:
        from PIL import ImageColor

        self.check_copies()
        try:
            is_plain = len(ImageColor.getrgb(self.background)) == 3
        except ValueError:
            is_plain = False
        if not is_plain:
            raise RecipeError(
                f"image_convert_mapper.background is {self.background!r}: write white or #ffffff"
            )

    def view(self, image: Image, is_truncated: bool) -> bool:
        """Whether the picture is not yet as it should be."""
        # A picture that was turned has no format of its own any more.
        wanted = self.format.upper() if self.format != "keep" else image.format
        is_done = image.mode == "RGB" and image.format is not None and image.format == wanted
        return not is_done or is_truncated

    def change(self, image: Image, seen: Any) -> Image:
        """The picture in RGB on its background."""
        from PIL import Image as Pictures

        plain = _plain(image)
        if plain.mode != "RGBA":
            return to_rgb(plain).copy()
        under = Pictures.new("RGB", plain.size, self.background)
        under.paste(plain, mask=plain.getchannel("A"))
        return under

    def ending(self, path: str) -> str:
        """`.jpg` or `.png`, or the picture's own."""
        return {"jpeg": ".jpg", "png": ".png"}.get(self.format) or super().ending(path)


def _plain(image: Image) -> Image:
    """The picture in L, RGB or RGBA."""
    if image.mode in ("L", "RGB", "RGBA"):
        return image
    is_keyed = image.mode == "P" and "transparency" in image.info
    has_alpha = is_keyed or image.mode in ("LA", "PA", "La", "RGBa")
    return image.convert("RGBA") if has_alpha else to_rgb(image)
