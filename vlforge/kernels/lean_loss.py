"""Language-model head and cross-entropy on supervised rows only.

A caption of 20 tokens behind 576 vision tokens needs 20 rows of logits, not 600.
The head is most of a small model's memory and a large part of its arithmetic,
and rows without a label add nothing to the loss or to any gradient.

Shapes: B rows, L tokens, D width, V vocabulary, S supervised tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vlforge.types import IGNORE_INDEX


def supervised_places(labels: Tensor) -> Tensor:
    """Where in [B * L] the tokens stand from which a supervised one is predicted, [S]."""
    columns = labels.shape[1]
    rows = (labels[:, 1:].reshape(-1) != IGNORE_INDEX).nonzero()[:, 0]
    if columns <= 1:
        return rows
    return rows + torch.div(rows, columns - 1, rounding_mode="floor")


def lean_loss(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    labels: Tensor,
    places: Tensor | None = None,
) -> Tensor:
    """Summed next-token cross-entropy in fp32, logits computed where a label is.

    Args:
        head: [S, D] -> [S, V], the language model's output layer.
        hidden: [B, L, D] last hidden states.
        labels: [B, L], not shifted; -100 is not supervised.
        places: `supervised_places(labels)`, where they are known.

    Returns:
        Scalar sum over supervised tokens (divide by their number for a mean).
        Zero, but connected to head and `hidden`, when nothing is supervised.
    """
    places = supervised_places(labels) if places is None else places
    picked = hidden.reshape(-1, hidden.shape[-1]).index_select(0, places)
    following = labels.reshape(-1)[places + 1]
    return F.cross_entropy(head(picked).float(), following, reduction="sum")


def full_loss(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor) -> Tensor:
    """The same sum with logits for every token: what `lean_loss` is checked against."""
    logits = head(hidden)[:, :-1].float()
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        labels[:, 1:].reshape(-1),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
    )


def supervised_tokens(labels: Tensor) -> int:
    """How many tokens of [B, L] unshifted labels the loss counts (never a row's first)."""
    return int((labels[:, 1:] != IGNORE_INDEX).sum())
