"""What is measured: models of a configuration, batches of made text and pictures, our order.

Shapes: B rows, T ids, S pixels a side.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models.base import PARTS, VisionLanguageModel
from vlforge.models.families import family_of, find_family
from vlforge.training.freezing import freeze
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX

STAGES = {1: "align", 2: "instruct"}
"""The published stages and the names that families have for what learns in them."""


@dataclass(frozen=True)
class Case:
    """A model in a stage: `text` tokens a row besides the picture's, the last `supervised`.

    `ragged` rows differ in length by a quarter of the text, so that some are padded.
    """

    name: str
    config: Mapping[str, Any]
    stage: int
    text: int
    supervised: int
    ragged: bool = False

    @property
    def title(self) -> str:
        """`mgm-2b stage 1`."""
        return f"{self.name} stage {self.stage}"


@dataclass(frozen=True)
class Batch:
    """ids, labels and mask [B, T], one picture a row [B, 3, S, S] in fp32.

    `views` is what Mini-Gemini's loader makes of the picture for CLIP, [B, 3, s, s].
    """

    ids: Tensor
    labels: Tensor
    mask: Tensor
    pixels: Tensor
    views: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


def build(
    config: Mapping[str, Any], device: str | torch.device, dtype: torch.dtype, seed: int = 0
) -> VisionLanguageModel:
    """A model with random weights, made where it stays: nothing passes through the CPU."""
    torch.manual_seed(seed)
    fields = copy.deepcopy({key: value for key, value in config.items() if key != "model_type"})
    family = find_family(str(family_of(config["model_type"])))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return family(family.config_class(**fields))
    finally:
        torch.set_default_dtype(before)


def enter_stage(model: VisionLanguageModel, stage: int) -> list[str]:
    """Let what a published stage trains learn, and nothing else; its parameters' names."""
    for parameter in model.parameters():
        parameter.grad = None
    return freeze(model, model.stages[STAGES[stage]], PARTS, model.unused_parameters)


def make_batch(model: VisionLanguageModel, case: Case, rows: int) -> Batch:
    """Made rows: a picture behind the first token, then words, the last of them supervised."""
    device = next(model.parameters()).device
    draw = torch.Generator(device).manual_seed(1)
    lengths = [case.text + (row % 3 - 1) * (case.text // 4 if case.ragged else 0)
               for row in range(rows)]  # fmt: skip
    shape = (rows, max(lengths) + 1)
    vocabulary = model.config.text_config.vocab_size
    ids = torch.randint(0, vocabulary, shape, generator=draw, device=device)
    ids[:, 1] = IMAGE_INDEX
    place = torch.arange(shape[1], device=device)[None]
    ends = torch.tensor(lengths, device=device)[:, None] + 1
    mask = place < ends
    labels = ids.where(mask & (place >= ends - case.supervised), IGNORE_INDEX)
    labels[:, :2] = IGNORE_INDEX
    side = model.image_size
    pixels = torch.randn(rows, 3, side, side, generator=draw, device=device)
    views = model.vision.views(pixels)[:, 0] if model.family == "mgm" else None
    return Batch(ids, labels, mask, pixels, views)


def lean_loss(model: VisionLanguageModel, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch as the training loop computes it, fp32 scalar."""
    spliced = model.splice(batch.ids, batch.pixels, labels=batch.labels, mask=batch.mask)
    return model.loss_sum(spliced) / supervised_tokens(spliced.plan.labels)
