"""Random weights by name and shape, written as the published folders have them.

A part file gives a `Shapes`; every tensor is drawn from (seed, its name), so that a model
does not depend on the order of its names.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
Dtype = Literal["float32", "float16", "bfloat16"]
_EDGES = ("norm", "ln_", "layrnorm", "logit_scale")
"""What the names of norms have in them."""


def random_state(
    shapes: Shapes, seed: int, *, dtype: Dtype = "float32", norm: float = 1.0, gain: float = 1.0
) -> dict[str, Tensor]:
    """Tensors of these shapes: matrices keep a signal's size, biases are small.

    Args:
        norm: what a norm's weight lies around; 0 where the model adds 1, as Gemma.
        gain: of the matrices; above 1 pictures change answers more.
    """
    made = {}
    for name, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            is_table = "embed" in name and "patch" not in name
            value = noise * (0.5 if is_table else gain / math.sqrt(math.prod(shape[1:])))
        elif name.endswith("weight") and any(edge in name.lower() for edge in _EDGES):
            value = norm + 0.1 * noise
        else:
            value = 0.05 * noise
        made[name] = value.to(getattr(torch, dtype)).contiguous()
    return made


def quieten(table: Tensor, rows: range, factor: float = 0.1) -> None:
    """Make these rows of a table of words small, so that a random model seldom says them."""
    table[rows.start : rows.stop] *= factor


def write_safetensors(folder: Path, state: Mapping[str, Tensor], shards: int = 1) -> None:
    """`model.safetensors`, or shards of it and their index."""
    from safetensors.torch import save_file

    for file, part in _shared_out(folder, state, "model", "safetensors", shards):
        save_file(dict(part), file, metadata={"format": "pt"})


def write_bin(
    folder: Path, state: Mapping[str, Tensor], shards: int = 1, name: str = "pytorch_model"
) -> None:
    """`pytorch_model.bin`, or shards of it and their index."""
    for file, part in _shared_out(folder, state, name, "bin", shards):
        torch.save(dict(part), file)


def write_json(path: Path, fields: Any) -> None:
    """Indented JSON; folders are made on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shared_out(
    folder: Path, state: Mapping[str, Tensor], stem: str, ending: str, shards: int
) -> list[tuple[Path, dict[str, Tensor]]]:
    """Files and their tensors; writes the index of more than one."""
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        return [(folder / f"{stem}.{ending}", dict(state))]
    names = list(state)
    size = math.ceil(len(names) / shards)
    found, where = [], {}
    for number in range(shards):
        part = {name: state[name] for name in names[number * size : (number + 1) * size]}
        file = folder / f"{stem}-{number + 1:05d}-of-{shards:05d}.{ending}"
        where |= dict.fromkeys(part, file.name)
        found.append((file, part))
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    write_json(folder / f"{stem}.{ending}.index.json", index)
    return found
