"""The folder of a native model: transformers' own layout, and what we know of its training.

`config.json` and weights as `save_pretrained` writes them, the processor's files as they
came, and `vlforge.json` with the template and the history of stages.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from vlforge import __version__
from vlforge.models.folder import META_NAME
from vlforge.models.native_parts import NativeParts
from vlforge.models.reading import write_json

OWN_TEMPLATE = "auto"
"""The name of a model's own chat template."""
_CARRIED = (".json", ".model", ".txt", ".jinja", ".tiktoken")
"""Files of a processor, by their ends."""
_WRITTEN = ("config.json", "generation_config.json", META_NAME)
_OF_STAGES = ("summary.json", "timing.json", "done.json", "merge.json", "adapted.json")


@dataclass(frozen=True)
class NativeFolder:
    """A native model with its processor, as stages hand it on.

    template: what it was last trained with; "auto" is its own chat template.
    source: the folder that its processor was read from.
    """

    model: NativeParts
    tokenizer: Any
    processor: Any
    source: Path
    template: str = OWN_TEMPLATE
    history: tuple[dict[str, Any], ...] = ()


def read_meta(path: Path) -> dict[str, Any]:
    """What `vlforge.json` says; nothing where there is none."""
    try:
        found: dict[str, Any] = json.loads((path / META_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def write_native(folder: NativeFolder, out: Path) -> None:
    """Write what `from_pretrained` of transformers' classes reads, and `vlforge.json`."""
    transformers_logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    model = folder.model.whole.model
    for part in (model.config, *(getattr(model.config, n) for n in model.config.sub_configs)):
        if hasattr(part, "_name_or_path"):
            part._name_or_path = ""  # where a part came from is no property of the model
    model.save_pretrained(out)
    copy_processor(folder.source, out)
    write_native_meta(folder, out)


def write_native_meta(folder: NativeFolder, out: Path) -> None:
    """`vlforge.json`."""
    meta = {
        "family": "native",
        "template": folder.template,
        "history": list(folder.history),
        "vlforge_version": __version__,
    }
    write_json(out / META_NAME, meta)


def copy_processor(source: Path, out: Path) -> None:
    """Tokenizer, processor and chat templates as they are; training does not change them."""
    left_out = (*_WRITTEN, *_OF_STAGES)
    for file in sorted(source.iterdir()):
        is_carried = file.suffix in _CARRIED and not file.name.endswith(".index.json")
        if file.is_file() and is_carried and file.name not in left_out:
            shutil.copyfile(file, out / file.name)
    extra = source / "additional_chat_templates"
    if extra.is_dir():
        shutil.copytree(extra, out / extra.name, dirs_exist_ok=True)
