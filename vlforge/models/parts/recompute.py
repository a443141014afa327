"""Layers whose insides are computed a second time in the backward pass instead of kept.

transformers' layers know how, but only while they are in training mode, which frozen ones
behind something that learns are not. Here a layer is told apart from its mode, and the
second time everything is as the first: random numbers, modes, and the rows that the last
layer was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.convnext.modeling_convnext import ConvNextLayer

from vlforge.models.parts.last_rows import LastRows


class Recompute:
    """How one layer is called: twice.

    `is_learning` is the layer's real mode, which it has inside of a call.
    """

    def __init__(self, layer: nn.Module, rows: LastRows | None = None):
        self.layer, self.rows = layer, rows
        self.is_learning = layer.training

    def __call__(self, work: Callable[..., Any], *given: Any) -> Any:
        """`work(*given)`, of which only what goes in is kept."""
        modes = {module: module.training for module in self.layer.modules()}
        modes[self.layer] = self.is_learning
        asked = self.rows.asked if self.rows is not None else None

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            return nullcontext(), self._again(modes, asked)

        with _in(modes):
            return checkpoint(work, *given, use_reentrant=False, context_fn=contexts)

    @contextmanager
    def _again(self, modes: dict[nn.Module, bool], asked: Any) -> Iterator[None]:
        with _in(modes), self.rows.only(asked) if self.rows is not None else nullcontext():
            yield


@contextmanager
def _in(modes: dict[nn.Module, bool]) -> Iterator[None]:
    """Modules in the given modes meanwhile."""
    before = {module: module.training for module in modes}
    try:
        for module, mode in modes.items():
            module.training = mode
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def layers_of(model: Any) -> dict[str, list[nn.Module]]:
    """Layers of encoder and decoder, `vision` and `language`, outer ones only."""
    found: dict[str, list[nn.Module]] = {"vision": [], "language": []}
    inside: str | None = None
    for name, module in model.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(module, GradientCheckpointingLayer | ConvNextLayer):
            inside = f"{name}."
            found["language" if name.startswith("language.") else "vision"].append(module)
    return found


def set_recompute(
    model: Any, parts: Collection[str], rows: LastRows | None = None
) -> dict[str, int]:
    """Let the layers of `parts` be computed twice, and no others; says how many do.

    A layer with a batch norm that learns stays as it is: it would count its batch twice.
    """
    counts = {}
    for part, layers in layers_of(model).items():
        chosen = [layer for layer in layers if part in parts and not _counts(layer)]
        for layer in layers:
            if isinstance(layer, ConvNextLayer):
                continue  # its tower calls it, see `ConvNextTower.recomputes`
            _restore(layer)
            layer.gradient_checkpointing = layer in chosen
            if layer in chosen:
                own = rows if rows is not None and rows.layer is layer else None
                layer._gradient_checkpointing_func = Recompute(layer, own)
                layer.training = True
        counts[part] = len(chosen)
    for module in model.modules():
        if hasattr(module, "recomputes"):
            module.recomputes = "vision" in parts
    return {part: counts[part] for part in counts if part in parts}


def _restore(layer: nn.Module) -> None:
    """Give a layer that was computed twice its real mode back."""
    told = vars(layer).pop("_gradient_checkpointing_func", None)
    if isinstance(told, Recompute):
        layer.training = told.is_learning


def _counts(layer: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) and module.training for module in layer.modules())
