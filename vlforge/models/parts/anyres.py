"""Pictures of any resolution as tiles: LLaVA 1.6.

A picture is scaled into the resolution, among several allowed, that keeps most of it,
set on black, and cut into tiles of the encoder's size; the whole picture, squeezed into
one tile, goes first. The tiles' tokens are joined again, where that is asked for without
those of the black border and with a learned token at the end of each line.

T tiles of a picture (the whole first), N = P * P tokens a tile, D width; sizes are
(width, height) throughout.
Source: llava/mm_utils.py and llava_arch.py, haotian-liu/LLaVA@c121f04; ranges of tiles
and `anyres_max_N` as in LLaVA-NeXT.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vlforge.types import ModelError

Size = tuple[int, int]
"""Width and height."""

BLANK: Size = (0, 0)
"""The size of a picture that is not there: one tile of zeros, so that text-only rows
pass through the encoder like the others."""

DEFAULT_TILES: tuple[Size, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""Allowed grids of LLaVA 1.6, in tiles."""

SHRINK_ABOVE = 1.1
"""How much longer than allowed a side of the map has to be before it is scaled down."""


def read_pinpoints(given: Any, side: int) -> tuple[Size, ...]:
    """Allowed resolutions in pixels, from any form that a configuration has them in.

    Pairs of pixels, the same as text, or a range of tiles such as `(1x1),...,(6x6)`,
    which means every grid between the first pair and the last.

    Args:
        side: of a tile, in pixels.

    Raises:
        ModelError: none of these, or pixels that are no whole number of tiles.
    """
    pairs: Any = given
    if isinstance(given, str):
        ends = [(int(w), int(h)) for w, h in re.findall(r"\((\d+)\s*x\s*(\d+)\)", given)]
        if ends:
            (w0, h0), (w1, h1) = ends[0], ends[-1]
            grids = [(w, h) for w in range(w0, w1 + 1) for h in range(h0, h1 + 1)]
            pairs = [(w * side, h * side) for w, h in grids]
        else:
            pairs = _literal(given)
    try:
        found = tuple((int(w), int(h)) for w, h in pairs)
    except (TypeError, ValueError):
        raise ModelError(f"image_grid_pinpoints {given!r} are no pairs of pixels") from None
    wrong = [pair for pair in found if min(pair) < side or pair[0] % side or pair[1] % side]
    if wrong or not found:
        what = list(wrong[0]) if wrong else "[]"
        raise ModelError(f"image_grid_pinpoints: {what} is no whole number of {side}-pixel tiles")
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def best_resolution(size: Size, pinpoints: Sequence[Size]) -> Size:
    """The allowed resolution that keeps most of the picture; of equals the least black."""
    best, most, least = pinpoints[0], 0, math.inf
    for width, height in pinpoints:
        scale = min(width / size[0], height / size[1])
        seen = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        black = width * height - seen
        if seen > most or (seen == most and black < least):
            best, most, least = (width, height), seen, black
    return best


def cut_tiles(
    image: Image.Image, pinpoints: Sequence[Size], side: int, resample: int
) -> list[Image.Image]:
    """The whole picture as one tile, then its tiles row by row; each `side` pixels square."""
    target = best_resolution(image.size, pinpoints)
    scale_w, scale_h = target[0] / image.width, target[1] / image.height
    if scale_w < scale_h:
        inner = (target[0], min(math.ceil(image.height * scale_w), target[1]))
    else:
        inner = (min(math.ceil(image.width * scale_h), target[0]), target[1])
    whole = Image.new("RGB", target, (0, 0, 0))
    corner = ((target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2)
    whole.paste(image.resize(inner, resample), corner)
    boxes = [
        (x, y, x + side, y + side)
        for y in range(0, target[1], side)
        for x in range(0, target[0], side)
    ]
    return [image.resize((side, side), resample), *(whole.crop(box) for box in boxes)]


@dataclass(frozen=True)
class Tiling:
    """How pictures are tiled and their tokens joined.

    side: of a tile in pixels; `patches` P on a side of it, with `extra` tokens besides
        (a class token), which only `flat` joining can keep.
    merge: "flat" appends tile after tile; "spatial" orders the tiles' tokens line by
        line of the picture; "spatial_unpad" also drops what saw the border only, and
        ends each line with the newline token.
    rounds: scaled sides are rounded at the seventh digit before they are cut down to
        whole tokens, as transformers does; LLaVA does not.
    max_tiles: tokens beyond those of so many tiles are scaled down; 0 keeps all.
    """

    pinpoints: tuple[Size, ...]
    side: int
    patches: int
    merge: str = "spatial_unpad"
    extra: int = 0
    rounds: bool = False
    max_tiles: int = 0

    def __post_init__(self) -> None:
        if self.merge not in ("flat", "spatial", "spatial_unpad"):
            raise ModelError(
                f"patch_merge {self.merge!r} is unknown; take flat, spatial or spatial_unpad"
            )
        if self.extra and self.merge != "flat":
            raise ModelError(f"select_feature cls_patch does not go with patch_merge {self.merge}")

    @property
    def has_newline(self) -> bool:
        """Whether a learned token ends each line."""
        return self.merge == "spatial_unpad"

    def grid(self, size: Size) -> Size:
        """Tiles across and down, the whole picture not counted."""
        width, height = best_resolution(size, self.pinpoints)
        return width // self.side, height // self.side

    def tiles(self, size: Size) -> int:
        """Tiles that the encoder sees of a picture."""
        if size == BLANK:
            return 1
        across, down = self.grid(size)
        return 1 + across * down

    def tokens(self, size: Size) -> int:
        """Tokens of a picture."""
        each = self.patches**2 + self.extra
        if size == BLANK:
            return each + self.has_newline
        if self.merge != "spatial_unpad":
            return self.tiles(size) * each
        rows, columns = self._kept(size)
        height, width = self._shrunk(len(range(*rows)), len(range(*columns)))
        return each + height * (width + 1)

    def join(self, tiles_TND: Tensor, size: Size, newline_D: Tensor | None) -> Tensor:
        """Tokens of a picture's tiles -> its tokens [M, D], `tokens(size)` of them."""
        whole, parts = tiles_TND[0], tiles_TND[1:]
        if size == BLANK:
            ends = [] if newline_D is None else [newline_D[None].to(whole.dtype)]
            return torch.cat([whole, *ends])
        if self.merge == "flat":
            return tiles_TND.flatten(0, 1)
        (across, down), side = self.grid(size), self.patches
        map_HWD = parts.reshape(down, across, side, side, -1).transpose(1, 2)
        map_HWD = map_HWD.reshape(down * side, across * side, -1)
        if self.merge == "spatial_unpad":
            rows, columns = self._kept(size)
            map_HWD = self._scale(map_HWD[slice(*rows), slice(*columns)])
            assert newline_D is not None
            line = newline_D.to(whole.dtype).expand(len(map_HWD), 1, -1)
            map_HWD = torch.cat([map_HWD, line], dim=1)
        return torch.cat([whole, map_HWD.flatten(0, 1)])

    def _kept(self, size: Size) -> tuple[Size, Size]:
        """First and past-last row and column of the map that saw the picture."""
        across, down = self.grid(size)
        width, height = across * self.patches, down * self.patches
        if size[0] / size[1] > width / height:
            border = (height - self._whole(size[1] * (width / size[0]))) // 2
            return (border, height - border), (0, width)
        border = (width - self._whole(size[0] * (height / size[1]))) // 2
        return (0, height), (border, width - border)

    def _whole(self, value: float) -> int:
        return int(round(value, 7)) if self.rounds else int(value)

    def _shrunk(self, height: int, width: int) -> Size:
        """Rows and columns after scaling down to `max_tiles` tiles' worth."""
        if not self.max_tiles:
            return height, width
        times = math.sqrt(height * width / (self.max_tiles * self.patches**2))
        if times <= SHRINK_ABOVE:
            return height, width
        return int(height // times), int(width // times)

    def _scale(self, map_HWD: Tensor) -> Tensor:
        target = self._shrunk(*map_HWD.shape[:2])
        if target == tuple(map_HWD.shape[:2]):
            return map_HWD
        planes = map_HWD.permute(2, 0, 1)[None]
        return F.interpolate(planes, target, mode="bilinear")[0].permute(1, 2, 0)


def as_bytes(tiles: Sequence[Image.Image]) -> np.ndarray:
    """Tiles as uint8 [T, S, S, 3]."""
    return np.stack([np.asarray(tile) for tile in tiles])
