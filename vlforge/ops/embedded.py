"""What models made of a block's pictures and texts: one forward serves every operator.

It lives as long as the block (`Files` holds it), so memory does not grow with the rows.
Operators ask through `Batch.embedded_images` (or `embedded_files`), `embedded_texts` and
`classified_images`; a selector or dedup by embeddings does so in its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlforge.data.images import ImageError, ImageFile
from vlforge.types import Drop

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

AT_ONCE = 32
"""Pictures that are decoded together before a model sees them."""

Model = tuple[str, str]
"""Kind and path of a model, such as ("embedder", folder)."""


class Seen:
    """Values by (model, picture, turns) and (model, text)."""

    def __init__(self) -> None:
        self._images: dict[tuple[Model, ImageFile, tuple[int, ...]], Any] = {}
        self._texts: dict[tuple[Model, str], Any] = {}

    def of_images(
        self,
        model: Model,
        files: Sequence[ImageFile],
        turns: Sequence[Transpose],
        read: Callable[[ImageFile], Image],
        see: Callable[[list[Image]], Sequence[Any]],
    ) -> list[Any]:
        """One value per picture, a `Drop` where `read` fails.

        `see` is shown those that are not known yet, each once, after all `turns`.
        """
        by = tuple(map(int, turns))
        new = [file for file in dict.fromkeys(files) if (model, file, by) not in self._images]
        for at in range(0, len(new), AT_ONCE):
            images: dict[ImageFile, Image] = {}
            for file in new[at : at + AT_ONCE]:
                try:
                    images[file] = turned(read(file), turns)
                except ImageError as error:
                    drop = Drop("", error.reason, None, str(error))
                    self._images[model, file, by] = drop
            values = see(list(images.values())) if images else ()
            for file, value in zip(images, values, strict=True):
                self._images[model, file, by] = value
        return [self._images[model, file, by] for file in files]

    def of_texts(
        self, model: Model, texts: Sequence[str], read: Callable[[list[str]], Sequence[Any]]
    ) -> list[Any]:
        """The values of texts; `read` is given those that are not known yet, each once."""
        new = [text for text in dict.fromkeys(texts) if (model, text) not in self._texts]
        if new:
            self._texts.update(zip([(model, text) for text in new], read(new), strict=True))
        return [self._texts[model, text] for text in texts]


def turned(image: Image, turns: Sequence[Transpose]) -> Image:
    """The picture after all turns."""
    for turn in turns:
        image = image.transpose(turn)
    return image
