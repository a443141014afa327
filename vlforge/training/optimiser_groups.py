"""Optimiser groups: which rate and which weight decay each parameter has.

Every reference has its own rule for what decays, and it is kept with its oddities:

- `default`: all but vectors (biases, norms, scales).
- `llava`, `mgm`: transformers' Trainer. All but biases and what is in a norm that the
  Trainer knew at 4.38: LayerNorm and the RMSNorm of Llama and Gemma, not Mistral's.
- `qwen`: the same before Llama's norm counted: Qwen's own RMSNorm decays.
- `lavis`: not below two dimensions, nor with "bias", "ln" or "bn" in the name.
- `paddle`: not with "bias" or "norm" in the name; Qwen's norms are called `ln_1` and decay.
- `xtuner`: everything decays.

Sources: haotian-liu/LLaVA@c121f04 llava_trainer.py, dvlab-research/MGM@769820c
mgm_trainer.py, Vision-CAIR/MiniGPT-4@22d8888 runner_base.py, paddlenlp 2.8.1 trainer.py,
QwenLM/Qwen-VL finetune.py, InternLM/xtuner v0.1.23.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vlforge.training.config import Optimiser
from vlforge.training.selection import matcher

PUBLISHED = {
    "llava": "vlforge.checkpoints.llava_fields",
    "mgm": "vlforge.checkpoints.mgm",
    "qwen_vl": "vlforge.checkpoints.qwen_vl",
}
"""Where `their_name` of a family is."""
_TRAINER_NORMS = ("LlamaRMSNorm", "GemmaRMSNorm")


def optimiser_groups(
    model: nn.Module, optimiser: Optimiser, parts: Sequence[str]
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, each of one rate and one weight decay.

    Each group holds `params`, `lr`, `weight_decay`, `name` and `names`.

    Raises:
        RecipeError: an entry of `lr_parts` or `lr_multi` matches no parameter.
    """
    decays = _decay_rule(model, optimiser)
    rates = _rates(model, optimiser, parts)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        label, rate = rates.get(name, ("rest", optimiser.lr))
        does_decay = optimiser.weight_decay > 0 and decays(name, parameter)
        group = groups.setdefault(
            (label, does_decay),
            {
                "params": [],
                "names": [],
                "name": label,
                "lr": rate,
                "weight_decay": optimiser.weight_decay if does_decay else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def make_optimiser(groups: list[dict[str, Any]], settings: Optimiser) -> torch.optim.Optimizer:
    """AdamW in one kernel, or plain gradient descent."""
    if settings.type == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr)
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, fused=True)


def published_names(model: nn.Module) -> dict[str, str]:
    """What a family's own code calls each parameter; ours where there is no such code."""
    inner: Any = model if hasattr(model, "family") else getattr(model, "model", None)
    family = str(getattr(inner, "family", ""))
    names = [name for name, _ in model.named_parameters()]
    if family not in PUBLISHED:
        return {name: name for name in names}
    their_name = importlib.import_module(PUBLISHED[family]).their_name
    prefix = "" if inner is model else "model."
    return {name: their_name(name.removeprefix(prefix)) for name in names}


def _decay_rule(model: nn.Module, optimiser: Optimiser) -> Callable[[str, nn.Parameter], bool]:
    kind = optimiser.groups
    if kind == "default":
        return lambda name, parameter: parameter.ndim >= 2
    if kind == "xtuner":
        return lambda name, parameter: True
    if kind == "lavis":
        words = ("bias", "ln", "bn")
        return lambda name, parameter: parameter.ndim >= 2 and not any(w in name for w in words)
    if kind == "paddle":
        theirs = published_names(model)
        return lambda name, parameter: not any(w in theirs[name] for w in ("bias", "norm"))
    norms = _norm_parameters(model, _TRAINER_NORMS if kind in ("llava", "mgm") else ())
    return lambda name, parameter: "bias" not in name and name not in norms


def _norm_parameters(model: nn.Module, known: Sequence[str]) -> set[str]:
    """Parameters inside of LayerNorms and of the modules whose class is called so."""
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) or type(module).__name__ in known
        for name, _ in module.named_parameters()
    }


def _rates(
    model: nn.Module, optimiser: Optimiser, parts: Sequence[str]
) -> dict[str, tuple[str, float]]:
    """Per parameter the label and rate of the last entry that means it."""
    names = [name for name, _ in model.named_parameters()]
    theirs = published_names(model) if optimiser.groups in ("llava", "mgm") else {}
    rates: dict[str, tuple[str, float]] = {}
    wanted = {
        **{label: optimiser.lr * times for label, times in optimiser.lr_multi.items()},
        **optimiser.lr_parts,
    }
    for label, rate in wanted.items():
        rates |= dict.fromkeys(_meant(label, names, parts, theirs), (label, rate))
    return rates


def _meant(
    label: str, names: Sequence[str], parts: Sequence[str], theirs: Mapping[str, str]
) -> set[str]:
    """Parameters of a part, with a piece of their published name, or an expression's."""
    if label not in parts and (found := {name for name in names if label in theirs.get(name, "")}):
        return found
    return matcher(label, names, parts, "lr_parts")
