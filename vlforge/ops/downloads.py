"""Where Data-Juicer and the Hugging Face hub keep what they downloaded, so that it can be used.

Nothing is downloaded here.
"""

from __future__ import annotations

import os
from pathlib import Path

ASSETS = "~/.cache/data_juicer/assets"
"""Data-Juicer's folder of word lists, unless its environment variables say otherwise."""


def assets_folder() -> Path:
    """Data-Juicer's folder of word lists on this machine."""
    return _folder("DATA_JUICER_ASSETS_CACHE", "assets")


def models_folder() -> Path:
    """Data-Juicer's folder of models on this machine."""
    return _folder("DATA_JUICER_MODELS_CACHE", "models")


def hub_folder(repo: str) -> Path | None:
    """The files of `owner/name` in the Hugging Face hub's cache; None where it has none."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    cached = hub / f"models--{repo.replace('/', '--')}"
    try:
        revision = (cached / "refs/main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    folder = cached / "snapshots" / revision
    return folder if folder.is_dir() else None


def _folder(variable: str, name: str) -> Path:
    if variable in os.environ:
        return Path(os.environ[variable]).expanduser()
    cache = Path(os.environ.get("CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("DATA_JUICER_CACHE_HOME", cache / "data_juicer"))
    return (home / name).expanduser()
