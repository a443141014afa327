"""Processors of transformers' image-text models, without torchvision where it is missing.

Several processors hold a video part that only torchvision gives, and refuse to be
made without it even for still pictures. Here the rest is put together: tokenizer,
PIL image processor, and transformers' own rule for placing image tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlforge.models.reading import first_line
from vlforge.types import ModelError

PROCESSOR_FILE = "processor_config.json"
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError, TypeError)


class _WithoutVideo:
    """Mixed into a processor's class: its video part may be missing."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument is None and "video" in argument_name:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


def open_processor(folder: Path) -> Any:
    """The processor in a model folder, its image part on PIL.

    Raises:
        ModelError: no processor there, or a part that cannot be read.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    try:
        if is_torchvision_available():
            return AutoProcessor.from_pretrained(folder)
        kind = _processor_class(folder)
        if kind is None or not any("video" in name for name in kind.get_attributes()):
            return AutoProcessor.from_pretrained(folder)
        return _without_video(kind, folder)
    except _ERRORS as error:
        raise ModelError(f"{folder}: its processor cannot be read: {first_line(error)}") from None


def _processor_class(folder: Path) -> Any:
    """The class that the folder's files name, or that transformers keeps for its model."""
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for name in (PROCESSOR_FILE, "preprocessor_config.json", "tokenizer_config.json"):
        named = _fields(folder / name).get("processor_class")
        if named and hasattr(transformers, named):
            return getattr(transformers, named)
    return PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(folder)), None)


def _without_video(kind: Any, folder: Path) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer

    made = type(kind.__name__, (_WithoutVideo, kind), {})
    fields = _fields(folder / PROCESSOR_FILE)
    own = {
        key: value
        for key, value in fields.items()
        if not isinstance(value, dict) and key not in ("processor_class", "auto_map")
    }
    own.setdefault("chat_template", _chat_template(folder))
    parts = dict.fromkeys(kind.get_attributes())
    parts["tokenizer"] = AutoTokenizer.from_pretrained(folder)
    parts["image_processor"] = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return made(**parts, **own)


def _chat_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _fields(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
    return None


def _fields(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return fields if isinstance(fields, dict) else {}
