"""What a train stage does otherwise where its model is a native one of transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlforge.checkpoints.vlforge_adapter import ADAPTED, FOLDERS, WHOLE, base_facts
from vlforge.inference.load import find_kind
from vlforge.inference.native import native_base, open_native
from vlforge.inference.placing import quantising
from vlforge.models.native import NativeModel
from vlforge.models.native_folder import (
    OWN_TEMPLATE,
    NativeFolder,
    copy_processor,
    read_meta,
    write_native,
    write_native_meta,
)
from vlforge.models.native_parts import NativeParts, their_name
from vlforge.models.reading import write_json
from vlforge.text.templates import Template, find_template
from vlforge.training.adapter_files import write_adapter_folder
from vlforge.training.adapters import Attached
from vlforge.training.config import TrainConfig
from vlforge.training.precision import DTYPES
from vlforge.types import ModelError, RecipeError


def is_native_stage(config: TrainConfig) -> bool:
    """Whether the stage's model is the folder of a native model, adapters or not."""
    if not isinstance(config.model, str) or not Path(config.model).is_dir():
        return False
    try:
        return find_kind(Path(config.model)) == "native"
    except ModelError:
        return False


def template_of(config: TrainConfig) -> Template | None:
    """The template that the stage names; None is the model's own.

    Raises:
        RecipeError: no such template, or `auto` for a model that has none of its own.
    """
    if config.template != OWN_TEMPLATE:
        return find_template(config.template)
    if not is_native_stage(config):
        raise RecipeError(
            "template auto is the chat template of a native model of transformers; this stage's "
            "model is none: name a template"
        )
    return None


def check_native(config: TrainConfig) -> None:
    """Refuse settings that mean nothing for a native model.

    Raises:
        RecipeError: names the first, and what to do.
    """
    template = template_of(config)
    asked: Mapping[str, bool] = {
        f"compat {config.compat}": config.compat is not None,
        f"tokenizer {config.tokenizer}": config.tokenizer != "auto",
        f"image_aspect_ratio {config.image_aspect_ratio}": config.image_aspect_ratio != "model",
        "augment": config.augment is not False,
        "random_crop": config.random_crop is True,
        f"export {config.export}": config.export != "model",
        f"template {config.template}": bool(template and template.new_tokens),
    }
    for name in (name for name, is_asked in asked.items() if is_asked):
        raise RecipeError(
            f"{name} is for our own families; {config.model} is a native model of transformers, "
            "which its own processor serves: leave it out"
        )


def open_native_base(config: TrainConfig, device: torch.device) -> NativeFolder:
    """The model that the stage goes on with; one with adapters is opened with these merged.

    Raises:
        ModelError: a part is missing, weights do not fit, or bitsandbytes is missing.
    """
    path = Path(str(config.model))
    how: dict[str, Any] = {}
    if config.quantise != "none":
        how = _quantised(config, path, device)
    model, processor = open_native(path, torch.float32, **how)
    # Batches are padded on the right; `open_native` prepares it for answers.
    processor.tokenizer.padding_side = "right"
    parts = NativeParts(NativeModel(model, processor))
    meta = read_meta(path)
    history = tuple(meta.get("history", ()))
    template = str(meta.get("template", OWN_TEMPLATE))
    source = native_base(path)
    return NativeFolder(parts, processor.tokenizer, processor, source, template, history)


def _quantised(config: TrainConfig, path: Path, device: torch.device) -> dict[str, Any]:
    from vlforge.inference.native import bare_native

    if native_base(path) != path:
        raise ModelError(f"quantise {config.quantise}: {path} holds adapters; merge them first")
    bare = bare_native(path)
    asked = quantising(config.quantise, DTYPES[config.precision], bare, NativeModel.part_of)
    return {"quantization_config": asked, "device_map": {"": str(device)}}


def native_doubts(config: TrainConfig, folder: NativeFolder) -> list[str]:
    """Why the template may not be what is wanted."""
    has_own = bool(getattr(folder.processor, "chat_template", None))
    if config.template == OWN_TEMPLATE and not has_own:
        raise RecipeError(f"{config.model} has no chat template of its own; name a template")
    if config.template == "plain" and has_own:
        return ["template plain writes no questions; template: auto is the model's own"]
    return []


def write_native_stage(
    folder: NativeFolder,
    adapters: Sequence[Attached],
    config: TrainConfig,
    trained: Collection[str],
    out: Path,
) -> None:
    """What the stage leaves: a whole model, or its adapters and what else was trained."""
    if adapters:
        _write_adapted(folder, adapters, config, trained, out)
    else:
        write_native(folder, out)


def _write_adapted(
    folder: NativeFolder,
    adapters: Sequence[Attached],
    config: TrainConfig,
    trained: Collection[str],
    out: Path,
) -> None:
    """The adapters as peft writes them, what else was trained, and where the base is."""
    base = native_base(Path(str(config.model)))
    told = base_facts(str(config.model), out)
    for one in adapters:
        write_adapter_folder(one, out / FOLDERS[one.part], str(base.resolve()))
    own = {f"{one.root}.{name}" for one in adapters for name in one.named()}
    whole = {
        _unadapted(their_name(name)): _plain(parameter)
        for name, parameter in folder.model.named_parameters()
        if name in trained and name not in own
    }
    if whole:
        save_file(whole, out / WHOLE, {"format": "pt"})
    copy_processor(folder.source, out)
    roots = {one.part: one.root for one in adapters}
    write_json(out / ADAPTED, {"family": "native", "base": told, "roots": roots})
    write_native_meta(folder, out)


def _unadapted(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _plain(tensor: Tensor) -> Tensor:
    return torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)
