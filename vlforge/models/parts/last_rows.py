"""The last decoder layer on rows that are asked for alone.

Only supervised rows of the last hidden states are read. What the last layer makes row by
row (queries, the output of attention, the MLP) is therefore made for these; keys and
values are made for all. Rows that nobody reads come out wrong, without a gradient.

The layers stay transformers' own: hooks on their products pick the rows that go in and
lay what comes out where it was, among zeros.

Shapes: B rows, L tokens, S supervised ones, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KINDS = (
    "llama", "mistral", "gemma", "gemma2", "gemma3_text", "qwen", "qwen2", "qwen3", "phi", "phi3",
)  # fmt: skip
"""Decoders whose layers add what attention and MLP make to what came in, row by row."""
NAMES = ("self_attn.q_proj", "self_attn.o_proj", "self_attn.dense", "attn.c_proj", "mlp")
"""What those layers call the products that may see some rows alone, where they have them."""


@dataclass(frozen=True)
class Asked:
    """Places [S] of the rows that are read, among all `count` of a batch."""

    places: Tensor
    count: int

    def pick(self, hidden: Tensor) -> Tensor:
        """[..., D], `count` rows in all -> [S, D]."""
        return hidden.reshape(self.count, hidden.shape[-1]).index_select(0, self.places)

    def lay(self, made: Tensor, shape: torch.Size) -> Tensor:
        """[S, D] -> `shape` without its width, zeros elsewhere."""
        whole = made.new_zeros(self.count, made.shape[-1])
        return whole.index_copy(0, self.places, made).view(*shape[:-1], made.shape[-1])


class LastRows:
    """Lets the products of a decoder's last layer see chosen rows, inside of `only`.

    A product that drops out at random keeps all rows: fewer would draw other numbers.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.asked: Asked | None = None
        self._shapes: list[torch.Size] = []
        self._hooks = []
        for product in _products(layer):
            self._hooks.append(product.register_forward_pre_hook(self._pick))
            self._hooks.append(product.register_forward_hook(self._lay))

    @contextmanager
    def only(self, asked: Asked | None) -> Iterator[None]:
        """Let the rows asked for be the only ones meanwhile; None means all."""
        before, self.asked = self.asked, asked
        try:
            yield
        finally:
            self.asked = before
            self._shapes.clear()

    def remove(self) -> None:
        """Give the layer back as it was."""
        for hook in self._hooks:
            hook.remove()

    def _pick(self, product: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.asked is None or _draws(product):
            return None
        hidden = given[0]
        self._shapes.append(hidden.shape)
        return self.asked.pick(hidden), *given[1:]

    def _lay(self, product: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor | None:
        if self.asked is None or _draws(product):
            return None
        return self.asked.lay(made, self._shapes.pop())


def last_rows(decoder: Any) -> LastRows | None:
    """Of a decoder's last layer; None where its kind of layer is not known to allow it."""
    if decoder.config.model_type not in KINDS:
        return None
    layers = getattr(decoder, "layers", None) or getattr(decoder, "h", None)
    if not layers or not any(_products(layers[-1])):
        return None
    return LastRows(layers[-1])


def _products(layer: nn.Module) -> list[nn.Module]:
    found = dict(layer.named_modules())
    return [found[name] for name in NAMES if name in found]


def _draws(product: nn.Module) -> bool:
    """Whether it drops out at random just now, as adapters do."""
    return any(
        isinstance(module, nn.Dropout) and module.p > 0 and module.training
        for module in product.modules()
    )
