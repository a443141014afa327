"""InternLM2 as a Llama: the same arithmetic, other names, and q, k and v in one matrix.

The rows of `wqkv` belong to one key-value head after the other: its H / G query
heads, its key, its value, D rows each. Nothing is permuted within a head.

H query heads, G key-value heads, D width of a head.
Source: InternLM/InternLM@2db5604 (tools/convert2llama.py); logits agree to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig

from vlforge.models.parts.language import text_config
from vlforge.types import ModelError

MODEL_TYPE = "internlm2"
FUSED = "attention.wqkv"
SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAYER_NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_NAMES = {"model.tok_embeddings": "model.embed_tokens", "output": "lm_head"}
_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "hidden_act", "initializer_range",
    "rms_norm_eps", "bos_token_id", "pad_token_id", "eos_token_id", "tie_word_embeddings",
)  # fmt: skip
"""Fields that mean the same in both configurations."""
_SCALINGS = ("default", "linear", "dynamic")
"""Kinds of rotary scaling that InternLM2's own code knows."""


def is_internlm2(fields: Mapping[str, Any]) -> bool:
    """Whether a configuration is InternLM2's."""
    return fields.get("model_type") == MODEL_TYPE


def llama_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """InternLM2's configuration as Llama's.

    Raises:
        ModelError: biases, which Llama would also give to the output of attention.
    """
    if fields.get("bias"):
        raise ModelError("an InternLM2 with bias is no Llama; the published ones have none")
    scaling = dict(fields.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    rope = {"rope_type": kind, "rope_theta": fields.get("rope_theta", 10000), **scaling}
    kept = {name: fields[name] for name in _FIELDS if name in fields}
    return text_config(
        kept | {"model_type": "llama", "attention_bias": False, "rope_parameters": rope}
    )


def internlm2_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """A Llama's configuration as InternLM2's.

    Raises:
        ModelError: a model that InternLM2 cannot be.
    """
    fields = config.to_dict()
    rope = dict(fields.get("rope_parameters") or {})
    theta, kind = rope.pop("rope_theta", 10000.0), rope.pop("rope_type", "default")
    rope.pop("type", None)
    wrong = None
    if config.model_type != "llama":
        wrong = f"a {config.model_type}"
    elif fields.get("attention_bias") or fields.get("mlp_bias"):
        wrong = "a Llama with biases"
    elif fields.get("head_dim") not in (None, Heads.of(config).width(config)):
        wrong = f"a Llama whose heads are {fields['head_dim']} wide"
    elif kind not in _SCALINGS:
        wrong = f"a Llama with rotary scaling {kind!r}"
    if wrong:
        raise ModelError(f"{wrong} cannot be written as InternLM2")
    return {name: fields[name] for name in _FIELDS if name in fields} | {
        "model_type": MODEL_TYPE,
        "architectures": ["InternLM2ForCausalLM"],
        "bias": False,
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else {"type": kind, **rope},
    }


def llama_name(name: str) -> str:
    """Llama's name of one of InternLM2's parameters, `wqkv` left as it is."""
    return _renamed(name, _LAYER_NAMES, _NAMES)


def internlm2_name(name: str) -> str:
    """InternLM2's name of one of Llama's parameters, q, k and v left as they are."""
    inner = {new: old for old, new in _LAYER_NAMES.items()}
    return _renamed(name, inner, {new: old for old, new in _NAMES.items()})


def _renamed(name: str, inner: Mapping[str, str], outer: Mapping[str, str]) -> str:
    for old, new in outer.items():
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    if not name.startswith("model.layers."):
        return name
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    for old, new in inner.items():
        if rest.startswith(f"{old}."):
            rest = new + rest.removeprefix(old)
            break
    return f"model.layers.{layer}.{rest}"


@dataclass(frozen=True)
class Heads:
    """Number of query heads and of key-value heads."""

    queries: int
    groups: int

    @classmethod
    def of(cls, config: Any) -> Heads:
        """Those of a configuration of either model."""
        queries = int(config.num_attention_heads)
        return cls(queries, int(getattr(config, "num_key_value_heads", None) or queries))

    def width(self, config: Any) -> int:
        """Width of a head."""
        return int(config.hidden_size) // self.queries

    def rows(self, fused: int) -> tuple[int, int, int]:
        """Rows of q, k and v in `fused` rows of `wqkv`."""
        width = fused // (self.queries + 2 * self.groups)
        return self.queries * width, self.groups * width, self.groups * width

    def split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`wqkv` [(H + 2G) D, …] -> q [H D, …], k and v [G D, …].

        Raises:
            ModelError: rows that so many heads do not make.
        """
        width, odd = divmod(fused.shape[0], self.queries + 2 * self.groups)
        if odd:
            raise ModelError(
                f"wqkv has {fused.shape[0]} rows, which {self.queries} query and {self.groups} "
                "key-value heads do not make; weights and config.json do not belong together"
            )
        shares = (self.queries // self.groups, 1, 1)
        by_head = fused.unflatten(0, (self.groups, sum(shares), width))
        q, k, v = (part.flatten(0, 2) for part in by_head.split(shares, dim=1))
        return q, k, v

    def join(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The way back."""
        width = k.shape[0] // self.groups
        parts = [part.unflatten(0, (self.groups, -1, width)) for part in (q, k, v)]
        return torch.cat(parts, dim=1).flatten(0, 2)


def llama_state(name: str, tensor: Tensor, heads: Heads) -> dict[str, Tensor]:
    """One of InternLM2's tensors as Llama's: one, or three for `wqkv`."""
    if FUSED not in name:
        return {llama_name(name): tensor}
    parts = heads.split(tensor)
    return {name.replace(FUSED, new): part for new, part in zip(SPLIT, parts, strict=True)}
