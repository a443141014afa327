"""Checkpoints inside a stage: enough to go on after a kill and end with the same bytes.

A checkpoint is a folder `step-N` with the trainable weights, the optimiser's
moments and a small state file. It is written beside and renamed, so that it is
there whole or not at all. No pickles.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"


@dataclass(frozen=True)
class Progress:
    """How far a run is; `digest` says which run, `seconds` what it took so far."""

    step: int
    digest: str
    tokens: int = 0
    supervised: int = 0
    seconds: float = 0.0
    scaler: dict[str, Any] | None = None


def save_checkpoint(
    folder: Path, progress: Progress, module: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write `folder/step-N` and remove older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    named = _trainable(module)
    kept = named | _running(module)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}, draft / WEIGHTS
    )
    save_file(_moments(named, optimiser), draft / MOMENTS)
    (draft / STATE).write_text(json.dumps(progress.__dict__))
    target = folder / f"step-{progress.step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(folder: Path, digest: str) -> tuple[Path, Progress] | None:
    """The latest checkpoint of the run `digest`; those of other runs do not count."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            progress = Progress(**json.loads((candidate / STATE).read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if progress.digest == digest:
            return candidate, progress
    return None


def load_checkpoint(checkpoint: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put weights and moments back where `save_checkpoint` took them."""
    named = _trainable(module)
    weights = load_file(checkpoint / WEIGHTS)
    with torch.no_grad():
        for name, tensor in (named | _running(module)).items():
            tensor.copy_(weights[name])
    moments = load_file(checkpoint / MOMENTS)
    names = {id(tensor): name for name, tensor in named.items()}
    state: dict[int, dict[str, Tensor]] = {}
    place = 0
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            prefix = names[id(parameter)] + "/"
            found = {k.removeprefix(prefix): v for k, v in moments.items() if k.startswith(prefix)}
            if found:
                state[place] = {k: v.reshape(()) if k == "step" else v for k, v in found.items()}
            place += 1
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _running(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that training moves, such as a norm's running mean."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    state = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in parameters}


def _moments(named: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    moments = {}
    for name, parameter in named.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            moments[f"{name}/{key}"] = torch.as_tensor(value).detach().cpu().reshape(value.shape)
    return {key: value.reshape(1) if not value.ndim else value for key, value in moments.items()}
