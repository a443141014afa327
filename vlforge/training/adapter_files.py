"""What a stage with adapters leaves: the adapters, what else it trained, and no base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlforge import __version__
from vlforge.checkpoints.lora import CONFIG_NAME, FILE_NAMES, plain_name
from vlforge.checkpoints.vlforge_adapter import (
    ADAPTED,
    FOLDERS,
    WHOLE,
    base_facts,
    told_fields,
)
from vlforge.models.base import VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.folder import META_NAME, ModelFolder
from vlforge.models.parts import image_processor
from vlforge.models.reading import write_json
from vlforge.training.adapters import Attached


def write_adapted(
    folder: ModelFolder,
    adapters: Sequence[Attached],
    base: ModelSpec | str,
    trained: Iterable[str],
    out: Path,
    *,
    has_new_tokens: bool = False,
) -> None:
    """Write the adapters in peft's format, with all that makes them a model beside the base.

    Args:
        base: what the stage began from.
        trained: names of the parameters that learned.
        has_new_tokens: the embeddings are no longer the base's.
    """
    told = base_facts(base, out)
    for one in adapters:
        write_adapter_folder(one, out / FOLDERS[one.part], told.get("path") or _part(base, one))
    model = folder.model
    whole = whole_tensors(model, adapters, set(trained), has_new_tokens)
    if whole:
        save_file(whole, out / WHOLE, {"format": "pt"})
    folder.tokenizer.save_pretrained(out)
    write_json(out / image_processor.FILE_NAME, folder.processor.to_json())
    roots = {one.part: one.root for one in adapters}
    write_json(out / ADAPTED, told_fields(model.family, model.config, told, roots))
    meta = {
        "family": model.family,
        "template": folder.template,
        "image_aspect_ratio": model.config.image_aspect_ratio,
        "history": list(folder.history),
        "vlforge_version": __version__,
    }
    write_json(out / META_NAME, meta)


def write_adapter_folder(attached: Attached, out: Path, base: str) -> None:
    """One adapter: `adapter_config.json` and `adapter_model.safetensors`."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: _plain(tensor) for name, tensor in attached.state().items()}
    save_file(dict(sorted(state.items())), out / FILE_NAMES[0], {"format": "pt"})
    fields = attached.config.to_dict() | {
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    # peft keeps names as sets, whose order changes from process to process.
    fields = {k: sorted(v) if isinstance(v, set) else v for k, v in fields.items()}
    write_json(out / CONFIG_NAME, fields)


def whole_tensors(
    model: VisionLanguageModel,
    adapters: Sequence[Attached],
    trained: set[str],
    has_new_tokens: bool = False,
) -> dict[str, Tensor]:
    """What the base does not give, under our names: trained whole, new, or resized."""
    own = {f"{one.root}.{name}" for one in adapters for name in one.named()}
    parameters = dict(model.named_parameters())
    words = _embeddings(model) if has_new_tokens else set()
    found = {
        plain_name(name): _plain(parameter)
        for name, parameter in parameters.items()
        if name not in own
        and (
            name in trained
            or not name.startswith(("vision.", "language."))
            or id(parameter) in words
        )
    }
    learned = {name.partition(".")[0] for name in trained - own}
    aliases = dict(model.named_parameters(remove_duplicate=False))
    for name, value in model.state_dict().items():
        if name not in aliases and name.partition(".")[0] in {*learned, "connector"}:
            found[name] = _plain(value)
    return found


def _embeddings(model: VisionLanguageModel) -> set[int]:
    language: Any = model.language
    layers: list[Any] = [language.get_input_embeddings(), language.get_output_embeddings()]
    return {id(getattr(layer, "base_layer", layer).weight) for layer in layers if layer is not None}


def _part(base: ModelSpec | str, attached: Attached) -> str:
    """The folder of the adapted part, where the model was put together of parts."""
    return str(Path(getattr(base, attached.part)).resolve())


def _plain(tensor: Tensor) -> Tensor:
    return torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)
