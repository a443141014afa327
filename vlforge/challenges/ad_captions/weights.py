"""The contest's rule about weights: Paddle's layout, the language model's structure unchanged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.challenges.ad_captions.layout import is_paddle
from vlforge.types import ModelError

LANGUAGE = ("transformer.llm.", "lm_head.")
"""How the names of the language model's weights begin in Paddle's layout."""
STRUCTURE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "kv_channels", "vocab_size", "no_bias", "rotary_emb_base", "rotary_pct", "layer_norm_epsilon",
)  # fmt: skip
"""Settings of `config.json` that make the language model what it is."""
_SHOWN = 3
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Outline:
    """The weights of a folder by name and shape, and its settings; none is read."""

    folder: Path
    shapes: Shapes
    dtypes: frozenset[str]
    settings: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """All weights."""
        return sum(map(math.prod, self.shapes.values()))

    def language(self) -> dict[str, tuple[int, ...]]:
        """The language model's."""
        return {name: shape for name, shape in self.shapes.items() if name.startswith(LANGUAGE)}


def outline(folder: Path) -> Outline:
    """What a folder of Paddle's layout holds.

    Raises:
        ModelError: no `.pdparams`, no config.json, or files that cannot be read.
    """
    from vlforge.checkpoints.paddle import read_weights

    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder of weights; check the path")
    if not is_paddle(folder):
        raise ModelError(
            f"{folder}: no .pdparams there; the contest takes Paddle's layout: "
            "vlforge convert-model SRC DST --to paddle"
        )
    config = folder / "config.json"
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"{config}: not there; copy it from the contest's weights") from None
    except ValueError as error:
        raise ModelError(f"{config}: is no JSON ({error})") from None
    found = read_weights(folder)
    shapes = {name: tuple(lazy.shape) for name, lazy in found.items()}
    dtypes = frozenset(str(lazy.dtype).removeprefix("torch.") for lazy in found.values())
    return Outline(folder, shapes, dtypes, settings)


def changes(base: Outline, trained: Outline) -> list[str]:
    """In what the language model's structure differs from the base's, a line each."""
    before, after = base.language(), trained.language()
    found = []
    for name in STRUCTURE:
        one, other = base.settings.get(name), trained.settings.get(name)
        if one is not None and other is not None and one != other:
            found.append(f"config.json: {name} is {other!r}, was {one!r}")
    found += _listed("gone", sorted(before.keys() - after.keys()))
    found += _listed("new", sorted(after.keys() - before.keys()))
    shared = sorted(before.keys() & after.keys())
    reshaped = [name for name in shared if before[name] != after[name]]
    if reshaped:
        name = reshaped[0]
        found.append(
            f"{len(reshaped)} of another shape, the first {name}: {list(after[name])}, was "
            f"{list(before[name])}"
        )
    one, other = (sum(map(math.prod, shapes.values())) for shapes in (before, after))
    if one != other:
        found.append(f"{other:,} weights, were {one:,}")
    return found


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} weights {what}: {', '.join(names[:_SHOWN])}{more}"]


def adapter_size(shapes: Shapes, rank: int) -> tuple[int, int] | None:
    """Layers and weights of the published adapter on a model; None where it is no Qwen-VL.

    The published targets, by name: c_attn, c_proj, w1 and w2 of the language model.
    """
    ends = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.w1.weight", "mlp.w2.weight")
    found = [
        shape for name, shape in shapes.items() if name.startswith(LANGUAGE) and name.endswith(ends)
    ]
    return (len(found), sum(rank * sum(shape) for shape in found)) if found else None
