"""Names in a recipe and the parameters that they mean: parts, published stages, expressions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from vlforge.types import RecipeError

LAST_HALF = ("vision_last_half", "optimize_vision_tower")
LAST_BLOCKS = ("vision_high_last_blocks", "optimize_vision_tower_aux")
"""Ours, and what Mini-Gemini calls it."""


def matcher(
    name: str, parameters: Sequence[str], parts: Sequence[str], word: str = "train"
) -> set[str]:
    """Parameters that a part's name or a regular expression means.

    A part means everything below it; an expression is searched anywhere in the
    full parameter name.

    Args:
        word: the setting that the name stands in, for errors.

    Raises:
        RecipeError: nothing matches; names what is nearest.
    """
    if name in parts:
        # The loop trains a part inside the module that computes its loss: `model.language.…`.
        return {parameter for parameter in parameters if name in parameter.split(".")[:2]}
    try:
        expression = re.compile(name)
    except re.error as error:
        raise RecipeError(f"{word}: {name!r} is no regular expression: {error}") from None
    found = {parameter for parameter in parameters if expression.search(parameter)}
    if not found:
        known = [*parts, *parameters]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3) or [parts[0]]
        raise RecipeError(
            f"{word}: {name!r} matches no parameter; the nearest name is {near[0]!r} "
            f"(parts: {', '.join(parts)})"
        )
    return found


def selections(model: Any) -> dict[str, tuple[str, ...]]:
    """The names that mean more than one thing in this model: stages, halves of encoders."""
    known: dict[str, tuple[str, ...]] = {k: tuple(v) for k, v in model.stages.items()}
    if hasattr(model, "published_towers"):
        known |= dict.fromkeys(LAST_HALF, model.published_towers(high=False))
        known |= dict.fromkeys(LAST_BLOCKS, model.published_towers(low=False))
        return known
    stacks = [
        (name, module)
        for name, module in model.vision.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1
    ]
    if stacks:
        name, layers = max(stacks, key=lambda stack: len(stack[1]))
        path = re.escape(f"vision.{name}.")
        half = tuple(rf"{path}{k}\." for k in range(len(layers) // 2, len(layers)))
        known |= dict.fromkeys(LAST_HALF, half)
    return known
