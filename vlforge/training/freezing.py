"""What trains and what stays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from torch import nn

from vlforge.training.selection import matcher
from vlforge.types import RecipeError


def freeze(
    model: nn.Module,
    train: Iterable[str],
    parts: Sequence[str],
    unused: Iterable[str] = (),
    stay: Iterable[str] = (),
) -> list[str]:
    """Let only what `train` names learn; modules with nothing to learn go to eval mode.

    A module without parameters, such as dropout, follows the module that it is in.

    Args:
        unused: parameters that no output depends on; they never train.
        stay: names of what is frozen although `train` means it.

    Returns:
        Names of the trainable parameters, in the model's order.

    Raises:
        RecipeError: a name matches nothing, or nothing would train.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for name in train:
        chosen |= matcher(name, names, parts)
    for name in stay:
        chosen -= matcher(name, names, parts, "freeze")
    chosen -= set(unused)
    if not chosen:
        raise RecipeError(f"train: nothing would learn; name one of {', '.join(parts)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    _set_modes(model, is_learning=True)
    return [name for name in names if name in chosen]


def _set_modes(module: nn.Module, is_learning: bool) -> None:
    """Training mode where something learns; without parameters, as the parent."""
    parameters = list(module.parameters())
    if parameters:
        is_learning = any(parameter.requires_grad for parameter in parameters)
    module.training = is_learning
    for child in module.children():
        _set_modes(child, is_learning)


def parts_of(learning: Collection[str], parts: Sequence[str]) -> list[str]:
    """Those of `parts` in which a parameter learns, in order."""
    return [part for part in parts if any(name.startswith(f"{part}.") for name in learning)]
