"""What our runs left where another system's commands look for it: under their output folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MODELS = ("config.json", "adapted.json")
_TOLD = re.compile(r"^#\s+--output_dir: (.*?)  \(", re.MULTILINE)
RUNS = Path("runs")


def model_left_in(folder: str) -> Path | None:
    """The model that a run of ours left in the place of an output folder; None without one.

    The folder may be a run itself (`--out`), or what an adopted script calls its output, in
    which case the run lies in `runs/` and its recipe says so.
    """
    run = Path(folder)
    if (run / "graph.json").is_file():
        models = _models(run)
        return models[-1] if models else None
    wanted = os.path.normpath(folder)
    for told in sorted(RUNS.glob("*/as_given.yaml")):
        outputs = _outputs(told)
        models = _models(told.parent)
        if wanted in outputs and outputs.index(wanted) < len(models):
            return models[outputs.index(wanted)]
    return None


def connector_left_in(path: str) -> str:
    """`OUTPUT/mm_projector.bin`, or where a run of ours has that file; the path if nowhere."""
    if Path(path).exists():
        return path
    model = model_left_in(os.path.dirname(path))
    found = model / os.path.basename(path) if model is not None else None
    return str(found) if found is not None and found.is_file() else path


def _models(run: Path) -> list[Path]:
    """The stages of a run that left a model, in order."""
    return sorted(
        one for one in run.glob("[0-9]*-*") if any((one / name).is_file() for name in _MODELS)
    )


def _outputs(recipe: Path) -> list[str]:
    """The output folders that an adopted recipe stands for, in the order of its stages."""
    try:
        told = _TOLD.search(recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return []
    texts = told.group(1).strip("'\"").split(", ") if told else []
    return [os.path.normpath(text) for text in texts]
