"""A native model in the loop: its rows as batches, padded or packed, and their summed loss.

Shapes: B rows, P packs, L tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.kernels.lean_loss import supervised_places
from vlforge.kernels.moving import moved
from vlforge.models.native import PER_TOKEN, NativeEncoded
from vlforge.models.native_outline import blank
from vlforge.models.native_parts import NativeParts
from vlforge.models.parts.last_rows import Asked
from vlforge.models.parts.packs import ATTENDING, segment_mask, wants_one_row
from vlforge.training.batching import Batching
from vlforge.training.config import TrainConfig
from vlforge.training.conversations import ConversationData
from vlforge.training.native_rows import lengthen
from vlforge.training.row_task import RowTask
from vlforge.types import IGNORE_INDEX, LLAVA_IMAGE_TOKEN, ModelError, Sample, Turn

_BLANK = (64, 64)
"""Width and height of the picture that a batch without pictures is given."""


class NativeLoss(nn.Module):
    """A model as the loop calls it: a batch in, summed loss out."""

    def __init__(self, model: NativeParts):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Tensor:
        """Scalar. `segments` [P, L] number the samples of packed rows."""
        segments = inputs.pop("segments", None)
        if segments is not None:
            inputs["attention_mask"] = self._apart(segments)
        lean, rows, labels = self.model.lean, self.model.last_rows, inputs["labels"]
        with (
            nullcontext()
            if rows is None
            else rows.only(Asked(supervised_places(labels), labels.numel()))
        ):
            return self.model.whole.loss_sum(inputs, lean=lean is None or lean.supervised_head)

    def _apart(self, segments: Tensor) -> Tensor | None:
        """A mask in which samples are blind to each other; none where positions tell it."""
        way = attention_of(self.model)
        if wants_one_row(way):
            return None
        mask = segment_mask(segments)
        if way != "eager":
            return mask
        dtype = self.model.language.get_input_embeddings().weight.dtype
        zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return zeros.masked_fill(~mask, torch.finfo(dtype).min)


class NativeTask(RowTask):
    """Next-token loss over the assistant's turns of a native model."""

    def __init__(
        self,
        model: NativeParts,
        data: ConversationData,
        batching: Batching = Batching(),
    ):
        super().__init__(model, data, batching)
        self.module: nn.Module = NativeLoss(model)
        self.model = model
        self._dummy: NativeEncoded | None = None

    def prefetch(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Start on the pictures of these rows."""
        del positions
        self.data.pictures.prefetch([self.data.rows.images[row] for row in rows])

    def batch(self, rows: np.ndarray, positions: np.ndarray, device: torch.device) -> dict:
        """What the model takes: ids, labels, masks or places of packs, and pictures."""
        del positions
        found = [self._row(int(row)) for row in rows]
        if self.needs_dummy and not any(row.image_spans for row in found):
            found.append(self._blank_row())
        made = self._packed(found) if self.batching.packs else self.model.whole.collate(found)
        return {key: moved(value, device) for key, value in made.items()}

    def _row(self, row: int) -> NativeEncoded:
        """A row as the processor would have encoded it; without labels where a picture is bad."""
        images = self.data.rows.images[row]
        ids, labels = lengthen(*self.data.rows.row(row))
        inputs = dict(self.data.pictures.take(images))
        if bad := [image for image in images if image in self.data.pictures.bad]:
            self.data.note_late(bad)
            labels = np.full_like(labels, IGNORE_INDEX)
        listed = ids.tolist()
        inputs |= self.model.whole.per_token(listed)
        spans = tuple((0, 0) for _ in images)
        return NativeEncoded(listed, labels.tolist(), inputs, spans)

    def _blank_row(self) -> NativeEncoded:
        """A black picture that nobody learns from: so each device runs the encoder in each pass."""
        if self._dummy is None:
            whole = self.model.whole
            turns = (Turn("user", LLAVA_IMAGE_TOKEN), Turn("assistant", "."))
            template = None if getattr(whole.processor, "chat_template", None) else _bare()
            row = whole.encode(Sample("blank", ("",), turns), [blank(_BLANK)], template)
            self._dummy = replace(row, labels=[IGNORE_INDEX] * row.length)
        return self._dummy

    def _packed(self, found: list[NativeEncoded]) -> dict[str, Tensor]:
        """Rows laid end to end: ids, labels, positions and segments [P, L], and pictures."""
        lengths = [row.length for row in found]
        packs = self.batching.grouped(lengths, attention_of(self.model))
        # Pictures are taken in the order of their tokens, so rows stand as packs hold them.
        found = [found[row] for pack in packs for row in pack]
        made = self.model.whole.collate(found)
        positions = positions_of(self.model, made)
        mask = made.pop("attention_mask").bool()
        moved = lay_end_to_end([[lengths[row] for row in pack] for pack in packs])
        names = ("input_ids", "labels", *(key for key in PER_TOKEN if key in made))
        for name in names:
            flat = torch.cat([made[name][mask], torch.zeros(1, dtype=made[name].dtype)])
            made[name] = flat[moved.source]
        made["labels"][moved.first | (moved.segments == 0)] = IGNORE_INDEX
        flat = torch.cat([positions[:, mask], torch.zeros(len(positions), 1, dtype=torch.long)], 1)
        placed = flat[:, moved.source]
        if len(placed) > 1 and wants_one_row(attention_of(self.model)):
            # Flash attention finds samples where plain positions begin anew.
            placed = torch.cat([moved.plain[None], placed])
        made["position_ids"] = placed if len(placed) > 1 else placed[0]
        return made | {"segments": moved.segments}


class _Moved:
    """Where each token of packs comes from in rows laid end to end; all [P, L].

    source: its place; the last one is padding. segments: its sample from 1, 0 is padding.
    first: whether it begins a sample. plain: its place in its sample.
    """

    def __init__(self, packs: Sequence[Sequence[int]]):
        shape = (len(packs), max(map(sum, packs)))
        total = sum(map(sum, packs))
        self.source = torch.full(shape, total)
        self.segments = torch.zeros(shape, dtype=torch.long)
        self.first = torch.zeros(shape, dtype=torch.bool)
        self.plain = torch.zeros(shape, dtype=torch.long)
        at = 0
        for place, pack in enumerate(packs):
            start = 0
            for number, length in enumerate(pack, 1):
                here = slice(start, start + length)
                self.source[place, here] = torch.arange(at, at + length)
                self.segments[place, here] = number
                self.first[place, start] = True
                self.plain[place, here] = torch.arange(length)
                start, at = start + length, at + length
            self.plain[place, start:] = torch.arange(shape[1] - start)


def lay_end_to_end(packs: Sequence[Sequence[int]]) -> _Moved:
    """Where tokens go that stand in rows of these lengths, pack by pack."""
    return _Moved(packs)


def positions_of(model: NativeParts, made: dict[str, Tensor]) -> Tensor:
    """Positions of a padded batch as the model itself places each row: [1 or 3, B, L]."""
    places = _placer(model)
    mask = made["attention_mask"]
    plain = torch.arange(mask.shape[1]).expand(mask.shape)
    if places is None:
        return plain[None]
    grids = {key: made[key] for key in made if key.endswith("_grid_thw")}
    if not grids:
        return plain.expand(3, -1, -1)
    told = inspect.signature(places).parameters
    given = {key: made[key] for key in PER_TOKEN if key in made and key in told} | grids
    found: Tensor = places(made["input_ids"], attention_mask=mask, **given)[0]
    return found


def _placer(model: NativeParts) -> Any:
    """What gives three positions to each token, in models that have them."""
    return getattr(getattr(model.whole.model, "model", None), "get_rope_index", None)


def attention_of(model: NativeParts) -> str:
    """What transformers calls the way in which the language model attends."""
    return str(model.language.get_decoder().config._attn_implementation)


def native_batching(
    config: TrainConfig, model: NativeParts, data: ConversationData, learning: Collection[str]
) -> Batching:
    """How batches are shared out and packed.

    Raises:
        ModelError: packs or costs that this model does not allow; one line.
    """
    made = Batching.of(replace(config, pack="off"), model, data, learning)
    if config.pack == "off":
        return made
    check_native_packable(model, int(data.rows.lengths.max()))
    length = 0 if isinstance(config.pack_length, str) else config.pack_length
    return replace(made, packs=True, pack_length=length)


def check_native_packable(model: NativeParts, longest: int) -> None:
    """Refuse a model whose samples would see one another, or be placed wrongly.

    Args:
        longest: tokens of the longest sample.

    Raises:
        ModelError: says why, and to turn packing off.
    """
    reason = _hindrance(model, longest)
    if reason is not None:
        kind = model.config.model_type
        raise ModelError(f"pack: isolated: {kind} {reason}; set pack: off")


def _hindrance(model: NativeParts, longest: int) -> str | None:
    text, whole = model.language.config, model.whole
    takes = inspect.signature(getattr(whole.model, "model", whole.model).forward).parameters
    if "position_ids" not in takes:
        return "takes no positions, and packed samples begin at 0 each"
    rope = getattr(text, "rope_parameters", None) or {}
    is_mrope = "mrope_section" in rope or "mrope" in str(rope.get("rope_type"))
    if is_mrope and _placer(model) is None:
        return "places pictures in three parts and does not say how"
    if whole.token_key and _placer(model) is None:
        return "lets tokens of a picture see each other, by a mask of its own"
    if hasattr(text, "cross_attention_layers"):
        return "reads pictures by cross-attention, whose mask is by rows"
    kinds = set(getattr(text, "layer_types", None) or ()) - set(ATTENDING)
    if kinds:
        return f"has {sorted(kinds)[0]} layers, which remember the sample before"
    window = getattr(text, "sliding_window", None)
    if window and longest > window and getattr(text, "use_sliding_window", True):
        return f"looks back {window} tokens and a sample has {longest}"
    return None


def _bare() -> Any:
    from vlforge.text.templates import find_template

    return find_template("plain")
