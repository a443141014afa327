"""How far two functions are apart, in value and in gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def drift(fast: Callable, reference: Callable, *inputs: Tensor) -> float:
    """Largest difference of outputs and of gradients with respect to `inputs`.

    Gradients are those of a fixed random weighting of the outputs. An input a
    function does not reach counts as gradient zero.
    """
    values, gradients = [], []
    for function in (fast, reference):
        own = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        value = function(*own)
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad((value * weights.to(value)).sum(), own, allow_unused=True)
        values.append(value)
        gradients.append(
            [torch.zeros_like(a) if g is None else g for a, g in zip(own, found, strict=True)]
        )
    pairs = [tuple(values), *zip(*gradients, strict=True)]
    return max((left - right).abs().max().item() for left, right in pairs)
