"""What trains and what stays: parts by name, parameters by regular expression."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from vlforge.training.config import Optimiser
from vlforge.types import RecipeError


def matcher(name: str, parameters: Sequence[str], parts: Sequence[str]) -> set[str]:
    """Parameters that a part's name or a regular expression means.

    A part means everything below it; an expression is searched anywhere in the
    full parameter name.

    Raises:
        RecipeError: nothing matches; names what is nearest.
    """
    if name in parts:
        # The loop trains a part inside the module that computes its loss: `model.language.…`.
        return {parameter for parameter in parameters if name in parameter.split(".")[:2]}
    try:
        expression = re.compile(name)
    except re.error as error:
        raise RecipeError(f"train: {name!r} is no regular expression: {error}") from None
    found = {parameter for parameter in parameters if expression.search(parameter)}
    if not found:
        known = [*parts, *parameters]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3) or [parts[0]]
        raise RecipeError(
            f"train: {name!r} matches no parameter; the nearest name is {near[0]!r} "
            f"(parts: {', '.join(parts)})"
        )
    return found


def freeze(
    model: nn.Module, train: Iterable[str], parts: Sequence[str], unused: Iterable[str] = ()
) -> list[str]:
    """Let only what `train` names learn; modules with nothing to learn go to eval mode.

    Args:
        unused: parameters that no output depends on; they never train.

    Returns:
        Names of the trainable parameters, in the model's order.

    Raises:
        RecipeError: a name matches nothing, or nothing would train.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for name in train:
        chosen |= matcher(name, names, parts)
    chosen -= set(unused)
    if not chosen:
        raise RecipeError(f"train: nothing would learn; name one of {', '.join(parts)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    for module in model.modules():
        module.training = any(parameter.requires_grad for parameter in module.parameters())
    return [name for name in names if name in chosen]


def optimiser_groups(
    model: nn.Module, optimiser: Optimiser, parts: Sequence[str]
) -> list[dict[str, object]]:
    """AdamW groups: rate by part, no weight decay on vectors (biases, norms).

    Each group holds `params`, `lr`, `weight_decay`, `name` and `names`.

    Raises:
        RecipeError: an entry of `lr_parts` matches no parameter.
    """
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    rates = _rates(list(dict(model.named_parameters())), optimiser.lr_parts, parts)
    groups: dict[tuple[str, bool], dict[str, object]] = {}
    for name, parameter in trainable.items():
        label, rate = rates.get(name, ("rest", optimiser.lr))
        decays = parameter.ndim >= 2 and optimiser.weight_decay > 0
        group = groups.setdefault(
            (label, decays),
            {
                "params": [],
                "names": [],
                "name": label,
                "lr": rate,
                "weight_decay": optimiser.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _rates(
    names: list[str], lr_parts: Mapping[str, float], parts: Sequence[str]
) -> dict[str, tuple[str, float]]:
    """Per parameter the label and rate of the last entry that means it."""
    rates: dict[str, tuple[str, float]] = {}
    for label, rate in lr_parts.items():
        rates |= dict.fromkeys(matcher(label, names, parts), (label, rate))
    return rates
