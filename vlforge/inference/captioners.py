"""Captioners by name: model folders and endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlforge.inference.local import LocalCaptioner
from vlforge.types import Captioner

if TYPE_CHECKING:
    from vlforge.inference.local import LocalModels


def open_captioner(models: LocalModels, path: str) -> Captioner:
    """The captioner in the folder `path`."""
    return LocalCaptioner(models.loaded(path), models.batch, models.temperature, models.seed)
