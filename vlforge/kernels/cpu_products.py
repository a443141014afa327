"""Matrix products through oneDNN on the CPU.

torch sends fp32 products to MKL, which on AMD processors stops at AVX2. oneDNN
uses AVX-512 there and is twice as fast in the same fp32 arithmetic, but torch
asks it only when products are allowed to round their inputs to bf16. Without
bf16 tiles (AMX) oneDNN has no use for that permission and stays in fp32; with
them it would round, so that fp32 runs leave the permission alone there.

Fused attention multiplies many small matrices one by one and loses under the
switch; plain attention, three batched products, gains. So both go together.

Measured on an EPYC with AVX-512, one thread, a Llama of width 96, batch 16,
value and gradients: 45 tokens 32.7 -> 20.4 ms, 141 tokens 103 -> 62 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

LONGEST_PLAIN_ATTENTION = 512
"""Tokens up to which plain attention is the faster one and its memory small."""


def rounds_products() -> bool:
    """Whether oneDNN would round fp32 inputs to bf16 here, were it allowed to."""
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def fast_products(precision: Literal["fp32", "bf16"]) -> Iterator[bool]:
    """Let oneDNN do the products of this process meanwhile.

    With `fp32` only where that is the same arithmetic; with `bf16` wherever
    torch offers it, convolutions too. Yields whether the switch is on.
    """
    switches: list[Any] = []
    if torch.backends.mkldnn.is_available() and (precision == "bf16" or not rounds_products()):
        switches.append(torch.backends.mkldnn.matmul)
        if precision == "bf16":
            switches.append(torch.backends.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "bf16"
        yield bool(switches)
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


@contextmanager
def plain_attention(module: nn.Module, longest: int) -> Iterator[None]:
    """Let the transformers models below `module` attend without fused kernels meanwhile.

    Nothing changes where a row is longer than `LONGEST_PLAIN_ATTENTION`.
    """
    changed: list[tuple[Any, str]] = []
    if longest <= LONGEST_PLAIN_ATTENTION:
        for part in module.modules():
            config = getattr(part, "config", None)
            if getattr(config, "_attn_implementation", None) == "sdpa":
                changed.append((config, "sdpa"))
                config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, value in changed:
            config._attn_implementation = value
