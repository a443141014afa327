"""Patch mining: a low-resolution token asks the high-resolution patches that it covers.

As published, every position of the high-resolution map becomes a key and a value. But
a window has one query, so the query goes through the key matrix instead, and patches
are pooled before the value matrix: N * A * C products instead of N * w * w * A * C. The
norm needs only each position's mean and deviation. And the map itself, four feature
maps brought to one size, is never built: resampling is linear, so scores are taken on
the small maps and resampled, weights are resampled back and pool the small maps.

Shapes: B pictures, n windows a side, w positions a side of a window, P = n * w, C
token channels, A patch channels (of all maps), S side of one map, k of its rows that a
window draws on.
Source: unified_resampler, dvlab-research/MGM@769820c.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Maps = Sequence[Tensor]
"""Feature maps [B, A_s, S_s, S_s] of one picture, the largest first."""


def join_maps(maps: Maps, shrink: int = 1) -> Tensor:
    """The high-resolution map as published: [B, A, P, P], P the largest map's side / shrink.

    Bilinear in fp32 (in fp64 where the maps are), then back to the maps' precision.
    """
    side = maps[0].shape[-2:]
    wide = torch.promote_types(maps[0].dtype, torch.float32)
    joined = [maps[0]]
    for small in maps[1:]:
        resized = F.interpolate(small.to(wide), size=side, mode="bilinear", align_corners=False)
        joined.append(resized.to(small.dtype))
    image = torch.cat(joined, 1)
    if shrink == 1:
        return image
    shrunk = F.interpolate(
        image.to(wide), scale_factor=1 / shrink, mode="bilinear", align_corners=False
    )
    return shrunk.to(image.dtype)


def mine_published(
    asked: Tensor, maps: Maps, key: nn.Sequential, value: nn.Sequential, shrink: int = 1
) -> Tensor:
    """What each window's patches tell its token, step by step as published.

    Args:
        asked: queries [B, n, n, C].
        key, value: LayerNorm, then Linear A -> C.
        shrink: the map is this many times smaller than the largest feature map.

    Returns:
        [B, n, n, C].
    """
    windows, channels = asked.shape[1], asked.shape[-1]
    image = join_maps(maps, shrink)
    side = image.shape[-1] // windows
    shape = (len(image), image.shape[1], windows, side, windows, side)
    patches = image.reshape(shape).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
    scores = asked[..., None, :] @ (key(patches).transpose(-2, -1) / channels**0.5)
    return (scores.nan_to_num().softmax(-1) @ value(patches))[..., 0, :]


def mine_folded(
    asked: Tensor, maps: Maps, key: nn.Sequential, value: nn.Sequential, shrink: int = 1
) -> Tensor:
    """The same as `mine_published` in about a fiftieth of the products, without the map.

    Key biases raise all scores of a window alike and so change nothing; here their
    gradients are exactly zero, where the published order leaves rounding noise.
    """
    kind, work = asked.device.type, maps[0].dtype
    if torch.is_autocast_enabled(kind):
        work = torch.get_autocast_dtype(kind)
    norm = key[0]
    probe = (asked @ key[1].weight) * norm.weight
    with torch.autocast(kind, enabled=False):  # moments and scores stay in fp32
        told = _told(probe, maps, shrink, norm.eps, asked.shape[-1] ** -0.5, work)
    unmoved = 0.0 * (norm.bias.sum() + key[1].bias.sum())  # they wait for a gradient too
    return value[1](told * value[0].weight + (value[0].bias + unmoved))


def _told(
    probe: Tensor, maps: Maps, shrink: int, eps: float, scale: float, work: torch.dtype
) -> Tensor:
    """The normed patches of each window, weighted by its probe [B, n, n, A]; same shape."""
    wide = torch.promote_types(maps[0].dtype, torch.float32)
    full, windows, device = maps[0].shape[-1], probe.shape[1], probe.device
    views = [_resampling(m.shape[-1], full, shrink, windows, wide, device) for m in maps]
    patches = [_patches(m, view.index).to(work) for m, view in zip(maps, views, strict=True)]
    mean, deviation = _moments(maps, views, eps)
    probes = probe.to(work).split([m.shape[1] for m in maps], -1)

    scores = -mean * probe.to(wide).sum(-1)[..., None, None]
    for part, asks, view in zip(patches, probes, views, strict=True):
        scores = scores + view.spread(_dots(part, asks).to(wide))
    scores = (scores / deviation * scale).nan_to_num()
    weights = scores.flatten(3).softmax(-1).view_as(scores) / deviation

    pooled = [
        _pool(part, view.gather(weights).to(work))
        for part, view in zip(patches, views, strict=True)
    ]
    centre = (weights * mean).sum((-2, -1))[..., None]
    return torch.cat(pooled, -1) - centre.to(work)


@dataclass(frozen=True)
class _Resampling:
    """How a map of S rows becomes P, by windows; the same for columns.

    matrix [P, S]; index [n, k] rows that a window draws on; weight [n, w, k]; reach:
    how far apart two rows are, at most, that one position draws on.
    """

    matrix: Tensor
    index: Tensor
    weight: Tensor
    reach: int

    def spread(self, small: Tensor) -> Tensor:
        """[B, n, n, k, k] on the map's own positions -> [B, n, n, w, w]."""
        rows = self.weight[:, None] @ small
        return rows @ self.weight.transpose(-2, -1)

    def gather(self, large: Tensor) -> Tensor:
        """The transpose: weights of the w x w positions, as weights of the map's own."""
        rows = self.weight[:, None].transpose(-2, -1) @ large
        return rows @ self.weight

    def whole(self, small: Tensor) -> Tensor:
        """[B, S, S] -> [B, n, n, w, w]."""
        count, side = self.weight.shape[:2]
        large = self.matrix @ small @ self.matrix.T
        return large.view(-1, count, side, count, side).transpose(2, 3)


@functools.lru_cache(maxsize=64)
def _resampling(
    source: int, full: int, shrink: int, windows: int, dtype: torch.dtype, device: torch.device
) -> _Resampling:
    """torch's own bilinear weights, found by resampling the unit vectors."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        units = torch.eye(source, dtype=torch.float64)[None]
        moved = F.interpolate(units, size=full, mode="linear", align_corners=False)
        if shrink > 1:
            moved = F.interpolate(
                moved, scale_factor=1 / shrink, mode="linear", align_corners=False
            )
        matrix = moved[0].T.contiguous()
        by_window = matrix.view(windows, -1, source)
        first, count = _span((by_window != 0).any(1))
        index = first.clamp(max=source - count)[:, None] + torch.arange(count)
        weight = by_window.gather(2, index[:, None].expand(-1, by_window.shape[1], -1))
        return _Resampling(
            matrix=matrix.to(device, dtype),
            index=index.to(device),
            weight=weight.contiguous().to(device, dtype),
            reach=_span(matrix != 0)[1] - 1,
        )


def _span(drawn: Tensor) -> tuple[Tensor, int]:
    """Of booleans [rows, S]: the first True of each row, and the longest row's length."""
    marks = drawn.long()
    first, past = marks.argmax(1), drawn.shape[1] - marks.flip(1).argmax(1)
    return first, int((past - first).max())


def _patches(small: Tensor, index: Tensor) -> Tensor:
    """[B, A_s, S, S] -> what each window draws on, [B, n, n, k * k, A_s]."""
    count, rows = index.shape
    side = small.shape[-1]
    places = index[:, None, :, None] * side + index[None, :, None, :]
    flat = small.permute(0, 2, 3, 1).reshape(len(small), side * side, -1)
    return flat.index_select(1, places.flatten()).view(len(small), count, count, rows * rows, -1)


def _dots(patches: Tensor, probe: Tensor) -> Tensor:
    """[B, n, n, k * k, A_s], [B, n, n, A_s] -> [B, n, n, k, k]."""
    rows = round(patches.shape[3] ** 0.5)
    return (patches @ probe[..., None])[..., 0].unflatten(-1, (rows, rows))


def _pool(patches: Tensor, weights: Tensor) -> Tensor:
    """[B, n, n, k * k, A_s], [B, n, n, k, k] -> [B, n, n, A_s]."""
    return (weights.flatten(3)[..., None, :] @ patches)[..., 0, :]


def _moments(maps: Maps, views: Sequence[_Resampling], eps: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation over all channels at every position, [B, n, n, w, w] each."""
    channels = sum(m.shape[1] for m in maps)
    wide = views[0].matrix.dtype
    total = [view.whole(m.sum(1, dtype=wide)) for m, view in zip(maps, views, strict=True)]
    squares = [_squares(m, view) for m, view in zip(maps, views, strict=True)]
    mean = torch.stack(total).sum(0) / channels
    variance = torch.stack(squares).sum(0) / channels - mean * mean
    return mean, (variance.clamp(min=0) + eps).sqrt()


def _squares(small: Tensor, view: _Resampling) -> Tensor:
    """Sum over channels of the squares of the resampled map, [B, n, n, w, w].

    The square of a weighted sum of neighbours is a weighted sum of their products,
    so products of the map with itself, moved by a row or a column, are all it takes.
    """
    matrix, side = view.matrix, small.shape[-1]
    found = 0.0
    for down in range(view.reach + 1):
        for right in range(-view.reach if down else 0, view.reach + 1):
            left = max(-right, 0)
            width = side - abs(right)
            here = small[:, :, : side - down, left : left + width]
            there = small[:, :, down:, left + right : left + right + width]
            product = (here.to(matrix.dtype) * there.to(matrix.dtype)).sum(1)
            rows = matrix[:, : side - down] * matrix[:, down:]
            columns = matrix[:, left : left + width] * matrix[:, left + right :][:, :width]
            times = 2 if down or right else 1
            found = found + times * (rows @ product @ columns.T)
    count, positions = view.weight.shape[:2]
    return found.view(-1, count, positions, count, positions).transpose(2, 3)
