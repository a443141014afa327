"""Mixtures of experts: one tensor in memory, one tensor for each expert in a file.

transformers 5 keeps all experts of a layer as `experts.gate_up_proj` [E, 2 F, D] and
`experts.down_proj` [E, D, F]; files keep them apart, as transformers 4 wrote them and
as 5 still writes them. Our names are those of files.

E experts, F feed-forward width, D width.
Source: conversion_mapping.py of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Index = tuple[int | slice, ...]
"""Which part of a tensor in memory a tensor of a file is."""

_PLAIN = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("w1", "w3", "w2")


def pieces(name: str, shape: Sequence[int], kind: Any) -> list[tuple[str, Index]]:
    """The names under which a parameter stands in a file, and which part of it each is.

    Args:
        name: of the parameter in memory; most stand in files as they are.
        kind: the language model's `model_type`.
    """
    stem, _, leaf = name.rpartition(".")
    gate, up, down = _MIXTRAL if kind == "mixtral" else _PLAIN
    if kind == "mixtral" and stem.endswith((".mlp.experts", ".mlp.gate")):
        stem = stem.replace(".mlp.", ".block_sparse_moe.")
        name = f"{stem}.{leaf}"
    if not stem.endswith(".experts") or len(shape) != 3:
        return [(name, ())]
    if leaf == "down_proj":
        return [(f"{stem}.{expert}.{down}.weight", (expert,)) for expert in range(shape[0])]
    if leaf != "gate_up_proj":
        return [(name, ())]
    half = shape[1] // 2
    return [
        (f"{stem}.{expert}.{side}.weight", (expert, rows))
        for expert in range(shape[0])
        for side, rows in ((gate, slice(0, half)), (up, slice(half, None)))
    ]


def file_shapes(shapes: Mapping[str, Sequence[int]], kind: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes in memory -> names and shapes in a file."""
    return {
        file: _shape_at(shape, index)
        for name, shape in shapes.items()
        for file, index in pieces(name, shape, kind)
    }


def _shape_at(shape: Sequence[int], index: Index) -> tuple[int, ...]:
    if not index:
        return tuple(shape)
    cut = tuple(shape[len(index) :])
    last = index[-1]
    if isinstance(last, slice):
        return (len(range(*last.indices(shape[len(index) - 1]))), *cut)
    return cut
