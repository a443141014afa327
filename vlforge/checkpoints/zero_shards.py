"""Weights in the folders that DeepSpeed's ZeRO leaves, put together without DeepSpeed.

The fp32 weights are cut over the ranks' optimizer files. Stages 1 and 2 lay all
parameters of a group end to end and cut the whole; stage 3 cuts each parameter, its
last piece filled up. Frozen parameters, if kept, are whole (1, 2) or cut too (3).

W ranks. Source: deepspeed/utils/zero_to_fp32.py (DeepSpeed 0.12 to 0.16).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlforge.checkpoints.foreign_pickle import read_trained
from vlforge.checkpoints.weights import Lazy
from vlforge.types import ModelError

OPTIMIZERS, MODELS = "*_optim_states.pt", "*model_states.pt"
_STATE = "optimizer_state_dict"
_FLAT = ("single_partition_of_fp32_groups", "fp32_flat_groups")


def is_zero(path: Path) -> bool:
    """Whether a folder holds what DeepSpeed leaves."""
    return path.is_dir() and any(path.glob(MODELS))


def read_zero(folder: Path) -> tuple[dict[str, Lazy], Mapping[str, Any]]:
    """The weights, fp32 where they were trained, and all else that the first rank kept.

    Raises:
        ModelError: files of ranks that are missing or cannot be read, pickles that
            ask for code, or shapes that the numbers do not fill.
    """
    models = [_read(file) for file in _ranked(folder, MODELS)]
    if not models or "module" not in models[0]:
        raise ModelError(f"{folder} holds no model_states.pt of DeepSpeed; copy it again")
    optimizers = _ranked(folder, OPTIMIZERS)
    if not optimizers:
        return _without_optimizer(folder, models[0]), models[0]
    try:
        return _gathered(folder, models, optimizers), models[0]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{folder}: its files are not those of DeepSpeed's ZeRO ({type(error).__name__}: "
            f"{error}); turn it into one file with the zero_to_fp32.py that lies beside it"
        ) from None


def _without_optimizer(folder: Path, state: Mapping[str, Any]) -> dict[str, Lazy]:
    """The working weights, where a run saved no optimizer; stage 3 leaves none."""
    found = {
        name: Lazy.of(value, f"{folder}:{name}")
        for name, value in (state.get("module") or {}).items()
        if isinstance(value, Tensor) and value.numel()
    }
    if not found:
        raise ModelError(f"{folder} lacks its ranks' *_optim_states.pt, which hold the weights")
    return found


def _gathered(
    folder: Path, models: Sequence[Mapping[str, Any]], optimizers: Sequence[Path]
) -> dict[str, Lazy]:
    states = [_read(file)[_STATE] for file in optimizers]
    stage, count = int(states[0]["zero_stage"]), states[0]["partition_count"]
    ranks = max(count) if isinstance(count, list) else int(count)
    if ranks != len(optimizers):
        raise ModelError(
            f"{folder} was written by {ranks} ranks and holds the files of {len(optimizers)}; "
            "copy all of them"
        )
    if stage not in (1, 2, 3):
        raise ModelError(f"{folder}: ZeRO stage {stage} is unknown")
    first = models[0]
    buffers = {name: first["module"][name] for name in first.get("buffer_names") or ()}
    made = {name: Lazy.of(value.float(), f"{folder}:{name}") for name, value in buffers.items()}
    flat = [state[_FLAT[stage == 3]] for state in states]
    gather = _cut_singly if stage == 3 else _cut_together
    made |= dict(gather(folder, first["param_shapes"], flat))
    made |= dict(_frozen(folder, models, stage))
    for name, partner in (first.get("shared_params") or {}).items():
        if partner in made:
            made[name] = made[partner]
    return made


def _cut_together(
    folder: Path, groups: Sequence[Mapping[str, Any]], flat: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[str, Lazy]]:
    """Stages 1 and 2: a group's parameters end to end, cut into W."""
    for index, shapes in enumerate(groups):
        pieces = [rank[index] for rank in flat]
        held, at = sum(piece.numel() for piece in pieces), 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            if at + size > held:
                raise ModelError(f"{folder}: the ranks' files end within {name}; copy them again")
            yield name, _lazy(folder, name, shape, _span(pieces, at, size))
            at += size


def _cut_singly(
    folder: Path, groups: Sequence[Mapping[str, Any]], flat: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[str, Lazy]]:
    """Stage 3: each parameter cut into W; groups follow each other."""
    ranks, at = [list(rank) for rank in flat], 0
    held = sum(piece.numel() for piece in ranks[0])
    for name, shape in ((n, s) for shapes in groups for n, s in shapes.items()):
        size = math.prod(shape)
        each = -(-size // len(ranks))
        if at + each > held:
            raise ModelError(f"{folder}: the ranks' files end within {name}; copy them again")
        spans = [_span(pieces, at, each) for pieces in ranks]
        yield name, _lazy(folder, name, shape, _end_to_end(spans, size))
        at += each


def _frozen(
    folder: Path, models: Sequence[Mapping[str, Any]], stage: int
) -> Iterator[tuple[str, Lazy]]:
    for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
        ranks = models if stage == 3 else models[:1]
        pieces = [model["frozen_param_fragments"][name].flatten() for model in ranks]
        whole = _span(pieces, 0, math.prod(shape))
        yield name, Lazy(tuple(shape), pieces[0].dtype, _shaped(whole, shape), f"{folder}:{name}")


def _span(pieces: Sequence[Tensor], start: int, size: int) -> Callable[[], Tensor]:
    """`size` numbers from `start` on in tensors laid end to end."""

    def read() -> Tensor:
        found, at = [], 0
        for piece in pieces:
            low, high = max(start - at, 0), min(start + size - at, piece.numel())
            if low < high:
                found.append(piece[low:high])
            at += piece.numel()
        return torch.cat(found) if found else torch.empty(0)

    return read


def _end_to_end(spans: Sequence[Callable[[], Tensor]], size: int) -> Callable[[], Tensor]:
    return lambda: torch.cat([span() for span in spans])[:size]


def _shaped(read: Callable[[], Tensor], shape: Sequence[int]) -> Callable[[], Tensor]:
    return lambda: read().reshape(tuple(shape))


def _lazy(folder: Path, name: str, shape: Sequence[int], read: Callable[[], Tensor]) -> Lazy:
    return Lazy(
        tuple(shape), torch.float32, lambda: _shaped(read, shape)().float(), f"{folder}:{name}"
    )


def _ranked(folder: Path, pattern: str) -> list[Path]:
    """A pattern's files in the order of their ranks."""

    def numbers(file: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", file.name)]

    return sorted(folder.glob(pattern), key=numbers)


def _read(file: Path) -> Mapping[str, Any]:
    state = read_trained(file)
    if not isinstance(state, Mapping):
        raise ModelError(f"{file} holds a {type(state).__name__}, no state of DeepSpeed")
    return state
