"""Opening transformers' models that judge: strict weights, frozen, on the run's device."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlforge.inference.load import PRECISIONS, pick_device, quiet
from vlforge.models.attention import check_attention
from vlforge.models.parts.image_processor import FILE_NAME as PROCESSOR_NAME
from vlforge.models.reading import first_line, load_weights, read_config
from vlforge.types import ModelError

if TYPE_CHECKING:
    from vlforge.inference.local import LocalModels

_ERRORS = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError, RuntimeError)
_PROCESSOR_FILES = (PROCESSOR_NAME, "processor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")


def config_of(path: str | Path, use: str) -> dict[str, Any]:
    """`config.json` of a folder that is to be used as `use` says, such as "a CLIP model".

    Raises:
        ModelError: no such folder, or none with a configuration.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"no model at {folder}; give the folder of {use}")
    fields = read_config(folder)
    if fields.get("auto_map") and not fields.get("model_type"):
        raise ModelError(f"{folder} brings code of its own, which is not run; give {use}")
    return fields


def open_model(models: LocalModels, path: str | Path, kind: Any, *, is_part: bool = False) -> Any:
    """The model in a folder, every weight of it read, frozen and on the run's device.

    Args:
        kind: its class in transformers.
        is_part: the file holds more than the class takes.

    Raises:
        ModelError: weights that are missing, have no place, or cannot be read.
    """
    from vlforge.inference.local import set_threads

    set_threads(models.threads)
    loading, device = models.loading, pick_device(models.device)
    dtype = PRECISIONS[loading.precision]
    check_attention(loading.attention, device, dtype)
    with quiet():
        model = load_weights(kind, Path(path), dtype, is_part=is_part)
    return model.to(device).eval().requires_grad_(False)


def open_tokenizer(path: str | Path) -> Any:
    """The tokenizer in a folder, of any kind that transformers knows.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    # Without any of them transformers makes up a tokenizer that knows no word.
    if not any(file for name in _TOKENIZER_FILES for file in Path(path).glob(name)):
        raise ModelError(f"{path} has no tokenizer; copy its files from where the model is from")
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(Path(path), trust_remote_code=False)
    except _ERRORS as error:
        raise ModelError(f"{path}: its tokenizer cannot be read: {first_line(error)}") from None


def open_image_processor(path: str | Path) -> Any:
    """The folder's image processor on PIL; called with pictures it gives what its model takes.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoImageProcessor

    if not any((Path(path) / name).is_file() for name in _PROCESSOR_FILES):
        raise ModelError(f"{path} has no {PROCESSOR_NAME}; copy it from where the model is from")
    try:
        with quiet():
            return AutoImageProcessor.from_pretrained(
                Path(path), backend="pil", trust_remote_code=False
            )
    except _ERRORS as error:
        raise ModelError(
            f"{path}: its image processor cannot be read: {first_line(error)}"
        ) from None


def processor_fields(path: str | Path) -> dict[str, Any]:
    """What the folder's files say of its image processor.

    Raises:
        ModelError: no such file, or no JSON in it.
    """
    for name in _PROCESSOR_FILES:
        file = Path(path) / name
        if not file.is_file():
            continue
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read: {first_line(error)}") from None
        return fields.get("image_processor", fields)
    raise ModelError(f"{path} has no {PROCESSOR_NAME}; copy it from where the model is from")


def pixels_for(model: Any, processor: Any, images: list[Any]) -> dict[str, Any]:
    """What the processor makes of pictures, on the model's device and in its precision.

    Raises:
        ModelError: the processor asks for a library that is not here.
    """
    try:
        inputs = processor(images=images, return_tensors="pt")
    except ImportError as error:
        found = re.search(r"requires the (\S+) library", str(error))
        name = found[1].lower() if found else first_line(error)
        raise ModelError(
            f"{model.name_or_path}: its image processor needs {name}: pip install {name}"
        ) from None
    return {name: _placed(value, model) for name, value in inputs.items()}


def _placed(value: torch.Tensor, model: Any) -> torch.Tensor:
    is_float = value.is_floating_point()
    return value.to(model.device, model.dtype) if is_float else value.to(model.device)
