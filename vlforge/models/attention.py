"""Which of the equal ways to compute attention a model takes, in every part of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import is_flash_attn_2_available, is_torch_flex_attn_available

from vlforge.models.parts.attention import Attention
from vlforge.types import ModelError

Way = Literal["auto", "sdpa", "flash", "flex", "eager"]
THEIRS = {
    "sdpa": "sdpa",
    "flash": "flash_attention_2",
    "flex": "flex_attention",
    "eager": "eager",
}
"""What transformers calls them."""
HALVES = (torch.float16, torch.bfloat16)


def set_attention(model: nn.Module, way: Way, device: torch.device, dtype: torch.dtype) -> str:
    """Let the language model and the encoders attend in one way; gives the way taken.

    "auto" is flash attention where it is installed and can work, else SDPA, else
    eager. An encoder without the way asked for takes SDPA or eager: of encoders, whose
    attention has no mask, all ways run about the same kernel.

    Raises:
        ModelError: a way that is not here, or that the language model does not have.
    """
    check_attention(way, device, dtype)
    if way == "auto":
        way = "sdpa" if _fault("flash", device, dtype) else "flash"
        order = [way, "sdpa", "eager"]
    else:
        order = [way]
    for module in model.modules():
        if isinstance(module, Attention):
            module.how = "eager" if way == "eager" else "sdpa"
    taken = way
    language = getattr(model, "language", None)
    text = model.config.get_text_config() if language is None else language.config
    for part in _parts(model):
        is_language = part.config is text
        tries = order if is_language else [*order, "sdpa", "eager"]
        found = next((one for one in tries if _has(part, one)), None)
        if found is None:
            kind = type(part).__name__
            raise ModelError(f"attention {way}: {kind} does not have it; take auto")
        part.config._attn_implementation = THEIRS[found]
        taken = found if is_language else taken
    return taken


def check_attention(way: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a way that cannot be taken here, before anything is read.

    Raises:
        ModelError: it cannot; says what it needs.
    """
    if fault := _fault(way, device, dtype):
        raise ModelError(f"attention {way} {fault}")


def _fault(way: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a way cannot be taken here; None where it can."""
    if way == "flash":
        if not is_flash_attn_2_available():
            return "needs flash-attn and a GPU: pip install flash-attn, or take auto"
        if device.type != "cuda" or dtype not in HALVES:
            return f"works on a GPU in bf16 or fp16, not on {device.type} in {dtype}; take auto"
    if way == "flex" and (device.type != "cuda" or not is_torch_flex_attn_available()):
        return "needs a GPU (torch compiles parts of it for CPUs only); take auto"
    if way not in (*THEIRS, "auto"):
        return f"is unknown; known: auto, {', '.join(THEIRS)}"
    return None


def _parts(model: nn.Module) -> Iterator[Any]:
    """Models within the model that attend, outer ones first, one for each configuration."""
    seen = set()
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) or id(module.config) in seen:
            continue
        seen.add(id(module.config))
        if any("attention" in type(inner).__name__.lower() for inner in module.modules()):
            yield module


def _has(part: Any, way: str) -> bool:
    try:
        return part.get_correct_attn_implementation(THEIRS[way]) == THEIRS[way]
    except (ValueError, ImportError):
        return False
