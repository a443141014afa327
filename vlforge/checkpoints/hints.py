"""What a foreign layout has no place for, kept beside it: the conversation template.

`vlforge.json` holds it, as in our own folders; other programs overlook the file.
"""

from __future__ import annotations

import json
from pathlib import Path

from vlforge.checkpoints.checkpoint import Checkpoint
from vlforge.models.folder import META_NAME
from vlforge.models.reading import write_json
from vlforge.text.templates import find_template
from vlforge.types import RecipeError


def write_hint(checkpoint: Checkpoint, out: Path) -> None:
    """Put the template's name beside a model that is written."""
    write_json(out / META_NAME, {"family": checkpoint.family, "template": checkpoint.template})


def read_hint(path: Path) -> str | None:
    """The template that a folder was written with; None where it does not say."""
    try:
        name = json.loads((path / META_NAME).read_text(encoding="utf-8")).get("template")
        return find_template(name).name
    except (OSError, ValueError, AttributeError, RecipeError):
        return None
