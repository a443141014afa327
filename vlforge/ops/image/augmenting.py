"""Changed copies of pictures as more data: flips, crops, colours, small turns, jpeg noise.

What is drawn depends on the run's seed, the row, the variant and the picture's place
alone, so neither the number of workers nor a restart changes it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.data.images import ImageError, ImageFile, to_rgb
from vlforge.ops.base import Grown, replaced
from vlforge.ops.batch import Batch, Item, drop_of
from vlforge.ops.image.copies import Copy, PictureWriter
from vlforge.ops.image.directions import speaks_of_sides, with_sides_swapped
from vlforge.types import Drop, RecipeError, Row

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Augmenting(PictureWriter):
    """What operators share that add or put in changed copies of a row's pictures.

    A row is changed with probability `p`, `aug_num` times; each time is a row of its own,
    and `keep_original_sample` keeps the row itself before them. Copies lie in `save_dir`,
    or else in the run's folder under `produced/` and the operator's name, named after the
    picture and a digest of the copy; they are upright and carry no EXIF, so that nothing
    turns them again. `__dj__source_file__` names what they were made from.
    """

    p: float = 1.0
    aug_num: int = 1
    keep_original_sample: bool = False

    marks_all: ClassVar = False

    def __post_init__(self) -> None:
        self.check_copies()
        if not 0 <= self.p <= 1:
            raise RecipeError(f"{self.op_name}.p is {self.p}, not 0..1")
        if self.aug_num < 1:
            raise RecipeError(f"{self.op_name}.aug_num is {self.aug_num}, below 1")
        self.check_amounts()

    def check_amounts(self) -> None:
        """Refuse amounts that make no sense."""

    def alters(self, item: Item) -> bool:
        """Whether the row may be changed at all."""
        return True

    def altered(self, image: Image, draw: random.Random) -> Image:
        """A new picture of an upright one; `image` itself stays as it is."""
        raise NotImplementedError

    def quality_of(self, draw: random.Random) -> int | None:
        """The quality of a copy; None: the operator's."""
        return None

    def reworded(self, row: Row) -> Row:
        """The new row, where its words change with its pictures."""
        return row

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        rows: list[Grown | Row | Drop] = []
        for item, files in zip(batch.items, batch.image_files(self), strict=True):
            try:
                rows.append(self._augmented(item, files, batch))
            except ImageError as error:
                rows.append(drop_of(error))
        return rows

    def _augmented(self, item: Item, files: Sequence[ImageFile], batch: Batch) -> Grown | Row:
        wanted = [
            number
            for number in range(self.aug_num)
            if self._draw(batch, item, number).random() < self.p
        ]
        if not files or not wanted or not self.alters(item):
            return item.row
        images: dict[ImageFile, Image] = {}
        for file in files:
            if file not in images:
                batch.files.view(file, self)
                images[file] = batch.files.take(file, self)
        made = tuple(self._variant(item, files, images, number, batch) for number in wanted)
        if len(made) == 1 and not self.keep_original_sample:
            return made[0]
        return Grown(self.keep_original_sample, made)

    def _variant(
        self,
        item: Item,
        files: Sequence[ImageFile],
        images: dict[ImageFile, Image],
        number: int,
        batch: Batch,
    ) -> Row:
        copies: dict[ImageFile, Copy] = {}
        for place, file in enumerate(files):
            if file not in copies:
                draw = self._draw(batch, item, number, place)
                quality = self.quality_of(draw)
                copies[file] = self.saved(self.altered(images[file], draw), file, batch, quality)
        return self.reworded(self._row(item.row, files, [copies[file] for file in files]))

    def _draw(self, batch: Batch, item: Item, *where: int) -> random.Random:
        told = f"{batch.context.seed}:{self.op_name}:{item.uid}:{where}".encode()
        return random.Random(int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()))


@dataclass(frozen=True, kw_only=True)
class ImageFlipMapper(Augmenting):
    """Mirror pictures, unless the text speaks of sides.

    `horizontal` swaps left and right, `vertical` top and bottom. Rows whose text speaks of
    what is swapped (left, right, east, clockwise, 左, 右 …; top, above, under, 上 …) stay as
    they are; `texts: swap` mirrors them too and swaps the words in pairs (left and right,
    top and bottom, above and below …) in English and Chinese; `texts: keep` does not look.
    Swapping goes by words: "the right answer" becomes "the left answer". Letters in
    pictures are mirrored, too: leave pictures of text out.

    With probability `p`, `aug_num` copies as rows of their own, the row itself kept before
    them by `keep_original_sample`. Ours, not Data-Juicer's.
    """

    direction: Literal["horizontal", "vertical"] = "horizontal"
    texts: Literal["refuse", "swap", "keep"] = "refuse"

    op_name: ClassVar = "image_flip_mapper"

    def alters(self, item: Item) -> bool:
        """Whether nothing in the text forbids it."""
        from vlforge.ops.base import look_up

        text = look_up(item.row, self.text_key)
        is_text = isinstance(text, str) and self.texts == "refuse"
        return not (is_text and speaks_of_sides(text, self.direction))

    def altered(self, image: Image, draw: random.Random) -> Image:
        """The mirrored picture."""
        from PIL.Image import Transpose

        is_level = self.direction == "horizontal"
        return image.transpose(Transpose.FLIP_LEFT_RIGHT if is_level else Transpose.FLIP_TOP_BOTTOM)

    def reworded(self, row: Row) -> Row:
        """The row with its words swapped, where that is asked for."""
        from vlforge.ops.base import look_up

        text = look_up(row, self.text_key)
        if self.texts != "swap" or not isinstance(text, str):
            return row
        return replaced(row, self.text_key, with_sides_swapped(text, self.direction))


@dataclass(frozen=True, kw_only=True)
class ImageCropMapper(Augmenting):
    """Cut a part out of pictures, drawn by its area and its shape.

    The part has between `min_area` and `max_area` of the picture's area, and a width /
    height of `min_ratio` to `max_ratio` times that of the picture. Nothing is scaled; what
    the text tells of may be cut away, so keep `min_area` high for captions.

    With probability `p`, `aug_num` copies as rows of their own, the row itself kept before
    them by `keep_original_sample`. Ours, not Data-Juicer's.
    """

    min_area: float = 0.6
    max_area: float = 1.0
    min_ratio: float = 0.8
    max_ratio: float = 1.25

    op_name: ClassVar = "image_crop_mapper"

    def check_amounts(self) -> None:
        """Shares of the area, and positive ratios."""
        if not 0 < self.min_area <= self.max_area <= 1:
            raise RecipeError(
                f"image_crop_mapper: areas {self.min_area}..{self.max_area} are not within 0..1"
            )
        if not 0 < self.min_ratio <= self.max_ratio:
            raise RecipeError(
                f"image_crop_mapper: ratios {self.min_ratio}..{self.max_ratio} are no range above 0"
            )

    def altered(self, image: Image, draw: random.Random) -> Image:
        """The part."""
        area = draw.uniform(self.min_area, self.max_area)
        ratio = math.exp(draw.uniform(math.log(self.min_ratio), math.log(self.max_ratio)))
        # Sides are shares of the picture's; both fit where the ratio lies within the area.
        ratio = min(max(ratio, area), 1 / area)
        width = max(1, round(image.width * math.sqrt(area * ratio)))
        height = max(1, round(image.height * math.sqrt(area / ratio)))
        left = draw.randint(0, image.width - min(width, image.width))
        top = draw.randint(0, image.height - min(height, image.height))
        right, bottom = min(left + width, image.width), min(top + height, image.height)
        return image.crop((left, top, right, bottom))


@dataclass(frozen=True, kw_only=True)
class ImageColorJitterMapper(Augmenting):
    """Change brightness, contrast, saturation and hue of pictures by chance.

    The first three are multiplied with a factor of `1 - amount` to `1 + amount`; the hue
    is turned by at most `hue` of the circle, `-0.5` to `0.5`. The hue is left alone by
    default, because texts name colours. Copies are RGB.

    With probability `p`, `aug_num` copies as rows of their own, the row itself kept before
    them by `keep_original_sample`. Ours, not Data-Juicer's.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    op_name: ClassVar = "image_color_jitter_mapper"

    def check_amounts(self) -> None:
        """Amounts that do not turn a picture black."""
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(
                    f"image_color_jitter_mapper.{name} is {getattr(self, name)}, not 0..1"
                )
        if not 0 <= self.hue <= 0.5:
            raise RecipeError(f"image_color_jitter_mapper.hue is {self.hue}, not 0..0.5")

    def altered(self, image: Image, draw: random.Random) -> Image:
        """The picture in other colours."""
        from PIL import ImageEnhance

        image = to_rgb(image)
        steps: tuple[tuple[Any, float], ...] = (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        )
        for enhance, amount in steps:
            factor = draw.uniform(1 - amount, 1 + amount)
            if amount:
                image = enhance(image).enhance(factor)
        return _turned_hue(image, draw.uniform(-self.hue, self.hue)) if self.hue else image


def _turned_hue(image: Image, share: float) -> Image:
    from PIL import Image as pillow

    hue, saturation, value = image.convert("HSV").split()
    shift = round(share * 256)
    turned = hue.point([(level + shift) % 256 for level in range(256)])
    return pillow.merge("HSV", (turned, saturation, value)).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class ImageRotationMapper(Augmenting):
    """Turn pictures by a small angle, up to `max_degrees` to either side.

    `corners: crop` cuts the largest upright rectangle out of the turned picture, so that
    no empty corner is left; `fill` keeps its size and fills the corners with black. The
    EXIF orientation is applied before and not written to the copy. Copies are RGB.

    With probability `p`, `aug_num` copies as rows of their own, the row itself kept before
    them by `keep_original_sample`. Ours, not Data-Juicer's.
    """

    max_degrees: float = 10.0
    corners: Literal["crop", "fill"] = "crop"

    op_name: ClassVar = "image_rotation_mapper"

    def check_amounts(self) -> None:
        """Angles that leave up above."""
        if not 0 <= self.max_degrees <= 45:
            raise RecipeError(f"image_rotation_mapper.max_degrees is {self.max_degrees}, not 0..45")

    def altered(self, image: Image, draw: random.Random) -> Image:
        """The turned picture."""
        from PIL.Image import Resampling

        degrees = draw.uniform(-self.max_degrees, self.max_degrees)
        turned = to_rgb(image).rotate(degrees, Resampling.BICUBIC, expand=self.corners == "crop")
        if self.corners == "fill":
            return turned
        width, height = largest_inside(image.width, image.height, math.radians(abs(degrees)))
        left, top = (turned.width - width) // 2, (turned.height - height) // 2
        return turned.crop((left, top, left + width, top + height))


def largest_inside(width: int, height: int, angle: float) -> tuple[int, int]:
    """Sides of the largest upright rectangle within one of some sides that is turned.

    Two of its corners lie on the longer sides, or all four on all sides.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    long, short = max(width, height), min(width, height)
    if short <= 2 * sine * cosine * long:
        half = short / 2
        sides = (half / sine, half / cosine)
        found = sides if width >= height else sides[::-1]
    else:
        scale = cosine * cosine - sine * sine
        found = (
            (width * cosine - height * sine) / scale,
            (height * cosine - width * sine) / scale,
        )
    return max(1, math.floor(found[0])), max(1, math.floor(found[1]))


@dataclass(frozen=True, kw_only=True)
class ImageCompressionMapper(Augmenting):
    """Write pictures as jpegs of a low quality, as the web does to them.

    The quality is drawn from `min_quality` to `max_quality`; copies end in `.jpg`.

    With probability `p`, `aug_num` copies as rows of their own, the row itself kept before
    them by `keep_original_sample`. Ours, not Data-Juicer's.
    """

    min_quality: int = 20
    max_quality: int = 60

    op_name: ClassVar = "image_compression_mapper"

    def check_amounts(self) -> None:
        """Qualities of jpegs, and none beside them."""
        if not 1 <= self.min_quality <= self.max_quality <= 100:
            raise RecipeError(
                f"image_compression_mapper: {self.min_quality}..{self.max_quality} is no range "
                "of qualities within 1..100"
            )
        if self.quality is not None:
            raise RecipeError("image_compression_mapper draws its quality: set min and max_quality")

    def ending(self, path: str) -> str:
        """Always a jpeg's."""
        return ".jpg"

    def altered(self, image: Image, draw: random.Random) -> Image:
        """The picture itself; writing it is the change."""
        return image.copy()

    def quality_of(self, draw: random.Random) -> int:
        """Drawn."""
        return draw.randint(self.min_quality, self.max_quality)
