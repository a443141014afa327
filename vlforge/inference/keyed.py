"""Sampling by keys inside transformers' own `generate`, and reading what it drew.

B rows, T tokens drawn, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlforge.inference.generate import Decoding, Drawing, Generated, draw_token, settle


class KeyedDraw:
    """A logits processor that leaves one token per row: the one its key draws."""

    def __init__(self, rows: list[Drawing], decoding: Decoding):
        self.rows = rows
        self.decoding = decoding
        self.step = 0
        self.said: list[list[int]] = [[] for _ in rows]

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        logits = scores_BV.float()
        tokens = draw_token(logits, self.rows, self.decoding, self.step, self.said)
        self.step += 1
        for ids, token in zip(self.said, tokens.tolist(), strict=True):
            ids.append(token)
        return torch.full_like(scores_BV, -torch.inf).scatter(1, tokens[:, None], 0.0)


def keyed_draw(rows: list[Drawing], decoding: Decoding) -> list[KeyedDraw] | None:
    """`logits_processor` of transformers' `generate`; None where it draws the same by itself."""
    is_own = decoding.temperature or decoding.repetition_penalty != 1
    return [KeyedDraw(rows, decoding)] if is_own else None


def read_drawn(
    rows: Sequence[Drawing], output: Any, model: Any, tokenizer: Any, decoding: Decoding
) -> list[list[Generated]]:
    """Tokens and log-probabilities, off the output of `generate`, by prompt."""
    # With beams the rows of the logits are beams, which change places at every step.
    chosen_BT = model.compute_transition_scores(
        output.sequences,
        tuple(logits.float() for logits in output.logits),
        getattr(output, "beam_indices", None),
        normalize_logits=True,
    )
    # Of beams only the steps that the longest answer took are told of.
    tokens_BT = output.sequences[:, -chosen_BT.shape[1] :]
    answers: list[list[Generated]] = [[] for _ in range(1 + max(row.prompt for row in rows))]
    for row, tokens, scores in zip(rows, tokens_BT.tolist(), chosen_BT.tolist(), strict=True):
        answers[row.prompt].append(settle(row, tokens, scores, tokenizer, decoding))
    return answers
