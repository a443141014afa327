"""What learns in each published stage of each family. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Stages = Mapping[str, tuple[str, ...]]
"""A stage's name and its parts, or expressions over parameter names."""

USUAL: Stages = {"align": ("connector",), "instruct": ("connector", "language")}

STAGES: Mapping[str, Stages] = {
    "llava": USUAL,
    "mgm": USUAL,
    "minigpt4": {"align": ("connector",), "instruct": ("connector",)},
    "qwen_vl": {
        "align": ("vision", "connector"),
        "multitask": ("vision", "connector", "language"),
        "instruct": (r"connector\.attn_pool\.", "language"),
    },
}
"""By family."""


def resolve(names: str | Iterable[str], known: Stages) -> tuple[str, ...]:
    """Parts and expressions that a recipe's names mean, in order; `known` says those of stages."""
    listed = (names,) if isinstance(names, str) else names
    return tuple(meant for name in listed for meant in known.get(name, (name,)))
