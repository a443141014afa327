"""Token splice: put vision tokens where a conversation says `<image>`.

One gather builds the whole batch: rows of text embeddings, vision tokens and a
zero row are laid in one table, and an index says which row stands where. The
index depends on ids alone, so it is planned on the CPU without looking at any
weight.

Shapes: B rows, T ids, L spliced length, I pictures, N tokens a picture, D width.
Source: prepare_inputs_labels_for_multimodal, haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vlforge.kernels.lean_loss import supervised_places
from vlforge.kernels.moving import moved
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, ModelError


@dataclass(frozen=True)
class SplicePlan:
    """Where everything stands in a spliced batch; all tensors [B, L].

    `source` indexes the table of text embeddings (B * T rows), then vision
    tokens, then one zero row. `mask` is False on padding. `lengths` [B].
    `segments` numbers the samples of a row that holds several (`parts/packs.py`).
    `places` are `supervised_places(labels)`, once the plan was moved: asking a GPU for
    them would wait for it.
    """

    source: Tensor
    labels: Tensor
    mask: Tensor
    positions: Tensor
    lengths: Tensor
    padding_side: Literal["left", "right"]
    segments: Tensor | None = None
    places: Tensor | None = None

    def to(self, device: torch.device | str) -> SplicePlan:
        """The plan with its tensors on a device."""
        tensors = (self.source, self.labels, self.mask, self.positions, self.lengths)
        places = supervised_places(self.labels) if self.places is None else self.places
        segments = None if self.segments is None else moved(self.segments, device)
        there = (moved(tensor, device) for tensor in tensors)
        return SplicePlan(*there, self.padding_side, segments, moved(places, device))


def plan_splice(
    ids: Tensor,
    image_tokens: Sequence[int],
    *,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    max_length: int | None = None,
    padding_side: Literal["left", "right"] = "right",
    dummy_images: bool = False,
) -> SplicePlan:
    """Plan where text and vision tokens go.

    Args:
        ids: [B, T] with -200 for each picture.
        image_tokens: vision tokens of each picture, in order of appearance.
        labels: [B, T]; over pictures they become -100. None: nothing supervised.
        mask: [B, T], False on padding, which is dropped. None: no padding.
        max_length: rows are cut here, after splicing.
        padding_side: where shorter rows are filled up.
        dummy_images: a row without `<image>` passes over one picture, as LLaVA's
            batches carry one picture per row.

    Raises:
        ModelError: the batch has more `<image>` than pictures, or fewer.
    """
    device, (rows, columns) = ids.device, ids.shape
    keep = _array(mask, bool) if mask is not None else np.ones((rows, columns), dtype=bool)
    tags = (_array(ids, np.int64) == IMAGE_INDEX) & keep
    per_row = tags.sum(1)
    used = np.where(per_row == 0, int(dummy_images), per_row)
    if used.sum() != len(image_tokens):
        raise ModelError(
            f"a batch has {per_row.sum()} <image> tags in {rows} rows and {len(image_tokens)} "
            "pictures; give one picture for each tag"
        )
    first_image = np.cumsum(used) - used
    image = first_image[:, None] + np.cumsum(tags, axis=1) - 1
    counts = np.asarray([*image_tokens, 0], dtype=np.int64)
    starts = rows * columns + np.cumsum(counts) - counts
    widths = np.where(tags, counts[np.where(tags, image, -1)], keep.astype(np.int64))
    begins = np.where(tags, starts[np.where(tags, image, -1)], _places(rows, columns))
    given = np.full((rows, columns), IGNORE_INDEX) if labels is None else _array(labels, np.int64)
    layout = _lay_out(widths, max_length, padding_side)
    source = np.full(layout.shape, starts[-1])
    source[layout.row, layout.column] = begins.reshape(-1)[layout.origin] + layout.inner
    target = np.full(layout.shape, IGNORE_INDEX)
    unlabelled = np.where(tags, IGNORE_INDEX, given).reshape(-1)
    target[layout.row, layout.column] = unlabelled[layout.origin]
    filled, positions = np.zeros(layout.shape, dtype=bool), np.zeros(layout.shape, dtype=np.int64)
    filled[layout.row, layout.column] = True
    positions[layout.row, layout.column] = layout.position
    if padding_side == "left":
        # Nothing precedes a row's first token; padding must not be asked to predict it.
        target[(positions == 0) & filled] = IGNORE_INDEX
    arrays = (source, target, filled, positions, layout.lengths)
    return SplicePlan(
        *(torch.from_numpy(array).to(device) for array in arrays), padding_side=padding_side
    )


def _array(tensor: Tensor, dtype: type) -> np.ndarray:
    return tensor.cpu().numpy().astype(dtype, copy=False)


def _places(rows: int, columns: int) -> np.ndarray:
    return np.arange(rows * columns).reshape(rows, columns)


@dataclass(frozen=True)
class _Layout:
    """Per spliced token, flat: its id's place, where in that id, its row, column, position."""

    origin: np.ndarray
    inner: np.ndarray
    row: np.ndarray
    column: np.ndarray
    position: np.ndarray
    lengths: np.ndarray
    shape: tuple[int, int]


def _lay_out(widths: np.ndarray, max_length: int | None, padding_side: str) -> _Layout:
    """Expand ids of the given widths [B, T] (0: padding) and cut each row."""
    rows, columns = widths.shape
    flat = widths.reshape(-1)
    origin = np.repeat(np.arange(flat.size), flat)
    inner = np.arange(origin.size) - (np.cumsum(flat) - flat)[origin]
    row = origin // max(columns, 1)
    lengths = widths.sum(1)
    position = np.arange(origin.size) - (np.cumsum(lengths) - lengths)[row]
    if max_length is not None:
        fits = position < max_length
        origin, inner, row, position = origin[fits], inner[fits], row[fits], position[fits]
        lengths = np.minimum(lengths, max_length)
    longest = int(lengths.max()) if rows else 0
    column = position + (longest - lengths)[row] if padding_side == "left" else position
    return _Layout(origin, inner, row, column, position, lengths, (rows, longest))


def splice(plan: SplicePlan, text: Tensor, vision: Sequence[Tensor] | Tensor | None) -> Tensor:
    """Embeddings [B, L, D] laid out as `plan` says, where `text` is and in its precision.

    Args:
        plan: from `plan_splice`.
        text: [B, T, D] embeddings of the ids (anything where the id is -200).
        vision: projected tokens [I, N, D], or a list of [N_i, D].
    """
    width = text.shape[-1]
    table = [text.reshape(-1, width)]
    if isinstance(vision, Tensor):
        table.append(vision.reshape(-1, width).to(text))
    elif vision is not None:
        table += [tokens.to(text) for tokens in vision]
    table.append(text.new_zeros(1, width))
    flat = torch.cat(table).index_select(0, plan.source.reshape(-1).to(text.device))
    return flat.reshape(*plan.source.shape, width)
