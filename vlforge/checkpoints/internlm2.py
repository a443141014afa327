"""InternLM2's weights as Llama's and back, and adapters that were trained on them.

Source: InternLM/InternLM@2db5604 (tools/convert2llama.py) for names and rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.lora import Adapter, LoraPair
from vlforge.checkpoints.weights import Lazy, Weights
from vlforge.models.parts.internlm2 import (
    FUSED,
    SPLIT,
    Heads,
    internlm2_fields,
    internlm2_name,
    llama_name,
)
from vlforge.types import ModelError

_TARGETS = {
    "wqkv": ("q_proj", "k_proj", "v_proj"), "wo": ("o_proj",), "w1": ("gate_proj",),
    "w3": ("up_proj",), "w2": ("down_proj",), "output": ("lm_head",),
    "tok_embeddings": ("embed_tokens",),
}  # fmt: skip
"""What an adapter's `target_modules` calls a module, and what Llama's names are."""


def to_llama(weights: Weights, heads: Heads) -> dict[str, Lazy]:
    """InternLM2's tensors as Llama's; none is read yet.

    Raises:
        ModelError: a `wqkv` whose rows are not those of so many heads.
    """
    made: dict[str, Lazy] = {}
    for name, lazy in weights.items():
        if FUSED not in name:
            made[llama_name(name)] = lazy
            continue
        for new, part in zip(SPLIT, split(lazy, heads), strict=True):
            made[name.replace(FUSED, new)] = part
    return made


def to_internlm2(weights: Weights, config: PreTrainedConfig) -> dict[str, Lazy]:
    """Llama's tensors as InternLM2's.

    Raises:
        ModelError: a model that InternLM2 cannot be, or q, k and v not all there.
    """
    internlm2_fields(config)
    heads = Heads.of(config)
    made: dict[str, Lazy] = {}
    for name, lazy in weights.items():
        if SPLIT[0] not in name:
            if not any(part in name for part in SPLIT):
                made[internlm2_name(name)] = lazy
            continue
        parts = [weights.get(name.replace(SPLIT[0], part)) for part in SPLIT]
        if None in parts:
            raise ModelError(f"{lazy.where} has no k_proj and v_proj beside it")
        made[name.replace(SPLIT[0], FUSED)] = _joined([part for part in parts if part], heads)
    return made


def split(fused: Lazy, heads: Heads) -> list[Lazy]:
    """A tensor of `wqkv`'s rows as those of q, k and v.

    Raises:
        ModelError: rows that are not those of so many heads.
    """
    total = heads.queries + 2 * heads.groups
    if fused.shape[0] % total:
        raise ModelError(
            f"{fused.where} has {fused.shape[0]} rows, which {heads.queries} query and "
            f"{heads.groups} key-value heads do not make; it belongs to another model"
        )

    def part(index: int) -> Callable[[Tensor], Tensor]:
        return lambda tensor: heads.split(tensor)[index]

    rows = heads.rows(fused.shape[0])
    return [fused.map(part(i), (count, *fused.shape[1:])) for i, count in enumerate(rows)]


def _joined(parts: list[Lazy], heads: Heads) -> Lazy:
    rows = sum(part.shape[0] for part in parts)
    made = Lazy.joined(parts, heads.join, (rows, *parts[0].shape[1:]))
    if all(part.exact is None for part in parts):
        return made
    return replace(made, exact=lambda: heads.join(*((p.exact or p.read)() for p in parts)))


def adapter_to_llama(adapter: Adapter, heads: Heads) -> Adapter:
    """An adapter of InternLM2 as one of Llama.

    q, k and v share the A of `wqkv`; their B is its rows.
    """
    pairs: dict[str, LoraPair] = {}
    for name, pair in adapter.pairs.items():
        if FUSED not in name:
            pairs[llama_name(name)] = pair
            continue
        lengths: list[Any] = [None] * 3 if pair.length is None else split(pair.length, heads)
        for new, b, length in zip(SPLIT, split(pair.b, heads), lengths, strict=True):
            pairs[name.replace(FUSED, new)] = replace(pair, b=b, length=length)
    fields = dict(adapter.settings.fields)
    targets = fields.get("target_modules")
    if isinstance(targets, list):
        fields["target_modules"] = sorted(t for old in targets for t in _TARGETS.get(old, (old,)))
    settings = replace(adapter.settings, fields=fields)
    return Adapter(settings, pairs, to_llama(adapter.whole, heads))
