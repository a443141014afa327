"""What a stage leaves for the next: a model folder, a connector alone, or both."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlforge.models.base import VisionLanguageModel
from vlforge.models.folder import ModelFolder
from vlforge.training.optimiser_groups import PUBLISHED

CONNECTOR = "mm_projector.bin"
"""The file's name in LLaVA and Mini-Gemini."""
MINIGPT4 = "minigpt4"


def with_aspect_ratio(folder: ModelFolder, ratio: str) -> ModelFolder:
    """The model as one that fits pictures in another way: stage 1 square, stage 2 pad."""
    if ratio == "model":
        return folder
    folder.model.config.image_aspect_ratio = ratio
    return replace(folder, processor=replace(folder.processor, fit_mode=ratio))  # type: ignore[arg-type]


def connector_weights(model: VisionLanguageModel) -> dict[str, Tensor]:
    """The connector's tensors by the names that its family's own code gives them.

    They are what `connector_weights` of a model reads again.
    """
    theirs = _namer(model.family)
    return {
        theirs(f"connector.{name}"): tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.connector.state_dict().items()
    }


def write_connector(model: VisionLanguageModel, out: Path, epochs: float | None = None) -> Path:
    """Write mm_projector.bin beside a stage's other files; MiniGPT-4's is checkpoint_N.pth.

    Args:
        epochs: passes of the stage; MiniGPT-4 counts them from 0.
    """
    weights: dict[str, Any] = connector_weights(model)
    path = out / CONNECTOR
    if model.family == MINIGPT4:
        last = max(math.ceil(epochs or 1), 1) - 1
        path, weights = out / f"checkpoint_{last}.pth", {"model": weights, "epoch": last}
    draft = path.with_suffix(".draft")
    torch.save(weights, draft)
    draft.rename(path)
    return path


def _namer(family: str) -> Any:
    if family == MINIGPT4:
        return lambda name: name.replace("connector.", "llama_proj.", 1)
    return importlib.import_module(PUBLISHED[family]).their_name
