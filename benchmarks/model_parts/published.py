"""One training step in the order in which the references compute it, restated plainly.

The model's own weights and modules, so that losses and gradients must be equal:

- CLIP runs all its layers and its last norm, keeps every hidden state, and the one before
  the last is taken; encoders run under no_grad (LLaVA, Mini-Gemini) or simply frozen
  (MiniGPT-4);
- Mini-Gemini builds the high-resolution map and mines it key by key;
- BLIP-2's queries are repeated for every picture from the start;
- rows are spliced one by one in Python, then padded;
- the output layer makes logits of every row, which are widened to fp32 and shifted;
- the language model's layers are checkpointed where the published scripts say so
  (reentrant, which was the only kind then), in both stages; MiniGPT-4 does not.

Attention and norms are the same kernels as in the model: what is measured is the order
of the computation, not the age of the libraries.

Sources: haotian-liu/LLaVA@c121f04, dvlab-research/MGM@769820c, Vision-CAIR/MiniGPT-4@22d8888.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from vlforge.kernels.mining import mine_published
from vlforge.models.base import VisionLanguageModel
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX

from .cases import Batch

CHECKPOINTED = ("llava", "mgm")
"""Families whose scripts set gradient checkpointing."""


def published_loss(model: VisionLanguageModel, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch, fp32 scalar."""
    features = FEATURES[model.family](model, batch)
    embeds, labels = splice_by_rows(model, batch, features)
    hidden = model.language.get_decoder()(inputs_embeds=embeds, use_cache=False).last_hidden_state
    logits = model.language.get_output_embeddings()(hidden).float()
    before, after = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    return F.cross_entropy(
        before.view(-1, before.shape[-1]), after.view(-1), ignore_index=IGNORE_INDEX
    )


@contextmanager
def published_setting(model: VisionLanguageModel) -> Iterator[None]:
    """Checkpointing where the published scripts set it."""
    with checkpointed(model) if model.family in CHECKPOINTED else nullcontext():
        yield


@contextmanager
def checkpointed(model: VisionLanguageModel) -> Iterator[None]:
    """The language model in training mode, of whose layers only the inputs are kept."""
    modules = list(model.language.modules())
    modes = [module.training for module in modules]
    layers = [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
    again = functools.partial(checkpoint, use_reentrant=True)
    try:
        model.language.train()
        for layer in layers:
            layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, again
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _llava_features(model: Any, batch: Batch) -> Tensor:
    return model.connector(_clip(model.vision, batch.pixels))


def _mgm_features(model: Any, batch: Batch) -> Tensor:
    assert batch.views is not None
    tokens = _clip(model.vision.low, batch.views)
    with torch.no_grad():
        maps = model.vision.high(batch.pixels.to(model.vision.high.dtype))
    miner, side = model.connector.miner, math.isqrt(tokens.shape[1])
    asked = miner.query(tokens).unflatten(1, (side, side))
    mined = mine_published(asked, maps, miner.key, miner.value)
    return model.connector.projector(tokens + mined.flatten(1, 2))


def _clip(tower: Any, pixels: Tensor) -> Tensor:
    """All layers of a CLIP under no_grad, the hidden state that is asked for picked at the end."""
    with torch.no_grad():
        found = tower.tower(pixels.to(tower.dtype), output_hidden_states=True)
        return found.hidden_states[tower.layers_run][:, 1:]


def _minigpt4_features(model: Any, batch: Batch) -> Tensor:
    vision = model.vision
    seen = vision.eva(batch.pixels)
    norm = vision.ln_vision
    wide = F.layer_norm(
        seen.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
    )
    former = vision.qformer
    x = former.norm(former.query_tokens.expand(len(seen), -1, -1))
    for layer in former.layers:
        x = layer(x, wide.to(seen.dtype))
    return model.connector(x)


FEATURES = {"llava": _llava_features, "mgm": _mgm_features, "minigpt4": _minigpt4_features}
"""Pictures to tokens of the language model's width, by family."""


def splice_by_rows(
    model: VisionLanguageModel, batch: Batch, features: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeddings [B, L, D] and labels [B, L], row by row, padded with zeros on the right.

    Gemma's scaling comes after the splice, on words and pictures alike, as the
    published versions of transformers have it.
    """
    table = model.get_input_embeddings().weight
    rows, targets, seen = [], [], 0
    for ids, labels, mask in zip(batch.ids, batch.labels, batch.mask, strict=True):
        ids, labels = ids[mask], labels[mask]
        cuts = [-1, *torch.where(ids == IMAGE_INDEX)[0].tolist(), len(ids)]
        seen += len(cuts) == 2 and len(features) == len(batch)  # a text's picture of zeros
        row, target = [], []
        for number, (start, end) in enumerate(itertools.pairwise(cuts)):
            row.append(F.embedding(ids[start + 1 : end], table))
            target.append(labels[start + 1 : end])
            if number + 2 < len(cuts):
                row.append(features[seen].to(table.dtype))
                target.append(labels.new_full((features.shape[1],), IGNORE_INDEX))
                seen += 1
        rows.append(torch.cat(row))
        targets.append(torch.cat(target))
    longest = max(map(len, rows))
    embeds = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    padded = [F.pad(one, (0, longest - len(one)), value=IGNORE_INDEX) for one in targets]
    scaled = embeds if model.picture_scale == 1 else embeds * model.picture_scale
    return scaled, torch.stack(padded)
