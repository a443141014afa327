"""A model with what was trained beside it, opened in memory: nothing is written.

What belongs to a model that sees is read as its layout reads it, with the model as its base.
LoRA of a language model, or of a model of transformers' own, is added to the weights in
place; a whole language model takes the place of the one that the model has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlforge.checkpoints.checkpoint import Parts
from vlforge.checkpoints.index import match
from vlforge.checkpoints.languages import OURS, read_language
from vlforge.checkpoints.lora import is_adapter, open_adapter
from vlforge.checkpoints.peft_adapter import landed
from vlforge.checkpoints.weights import Lazy
from vlforge.inference.load import Loaded, find_kind, load_model
from vlforge.inference.native import is_adapted_native, merge_adapters
from vlforge.inference.text_models import is_text_model
from vlforge.models.native_folder import OWN_TEMPLATE, read_meta
from vlforge.models.reading import read_config
from vlforge.text.templates import find_template
from vlforge.types import Loading, ModelError

if TYPE_CHECKING:
    from torch import Tensor


def load_adapted(
    model: str | Path,
    adapter: str | Path,
    device: str = "auto",
    *,
    template: str = "auto",
    parts: Parts | None = None,
    loading: Loading = Loading(),
) -> Loaded:
    """The model in `model` with the one thing that was trained on it.

    Args:
        adapter: LoRA as peft, LLaVA, MGM, XTuner or a train stage leave it, XTuner's `.pth`,
            or the folder of a whole language model.

    Raises:
        ModelError: folders that do not belong together, tensors without a place, or
            quantising what is put together in memory.
    """
    base, beside = Path(model), Path(adapter)
    for path in (base, beside):
        if not path.exists():
            raise ModelError(f"nothing at {path}; check the path")
    if is_adapter(base) and not is_adapter(beside):
        raise ModelError(f"{base} holds an adapter; name the model first, --adapter {base} second")
    how: dict[str, Any] = {"template": template, **vars(loading)}
    if _is_language(beside):
        return _with_language(load_model(base, device, parts=parts, **how), beside, loading)
    if is_adapted_native(beside):
        return _with_stage(load_model(base, device, **how), beside, template, loading)
    if match(beside) is None:
        raise ModelError(f"{beside} holds no adapter that is known here; vlforge list layouts")
    if is_adapter(beside) and find_kind(base) in ("language", "native"):
        return _with_lora(load_model(base, device, **how), beside, loading)
    return load_model(beside, device, parts=replace(parts or Parts(), base=base), **how)


def _is_language(path: Path) -> bool:
    """Whether a folder holds a whole language model and nothing else."""
    if not (path / "config.json").is_file() or is_adapter(path) or match(path) is not None:
        return False
    return is_text_model(read_config(path))


def _with_stage(loaded: Loaded, adapter: Path, template: str, loading: Loading) -> Loaded:
    _check_whole(loaded, adapter, loading)
    with _on_cpu(loaded):
        merge_adapters(loaded.model, adapter)
    name = str(read_meta(adapter).get("template", OWN_TEMPLATE)) if template == "auto" else template
    own = loaded.template if name == OWN_TEMPLATE else find_template(name)
    return replace(loaded, template=own)


def _with_lora(loaded: Loaded, adapter: Path, loading: Loading) -> Loaded:
    _check_whole(loaded, adapter, loading)
    with _on_cpu(loaded):
        weights = _weights(loaded.model)
        lora = landed(open_adapter(adapter), weights)
        merged = lora.onto(weights)
        _put(loaded.model, {name: merged[name] for name in (*lora.pairs, *lora.whole)})
    return loaded


def _with_language(loaded: Loaded, folder: Path, loading: Loading) -> Loaded:
    """The model with another language model in its place; its tokenizer stays."""
    _check_whole(loaded, folder, loading)
    if loaded.kind != "family":
        raise ModelError(
            f"{folder} holds a whole language model and no adapter; give it as the model"
        )
    inside = {name for name in _weights(loaded.model) if name.startswith(OURS)}
    given = {name: one for name, one in read_language(folder).weights.items() if name in inside}
    tied = {name for name in inside if name.endswith("lm_head.weight")}
    lost = sorted(inside - set(given) - tied)
    if lost:
        raise ModelError(
            f"{folder} lacks {lost[0]}, which {loaded.path} has; another kind of model"
        )
    _put(loaded.model, given)
    return loaded


def _check_whole(loaded: Loaded, adapter: Path, loading: Loading) -> None:
    if loading.quantise != "none" or loading.device_map != "none":
        raise ModelError(
            f"{adapter} is put into whole weights on one device; before quantising or spreading "
            f"the model, merge it: vlforge merge {loaded.path} {adapter} OUT"
        )


@contextmanager
def _on_cpu(loaded: Loaded) -> Iterator[None]:
    """The model beside its adapter, whose tensors are read into the CPU's memory."""
    loaded.model.to("cpu")
    yield
    loaded.model.to(loaded.device)


def _weights(model: Any) -> dict[str, Lazy]:
    named = model.named_parameters(remove_duplicate=False)
    return {name: Lazy.of(value, name) for name, value in named}


@torch.no_grad()
def _put(model: Any, weights: Mapping[str, Lazy]) -> None:
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for name, lazy in weights.items():
        if tuple(lazy.shape) != tuple(named[name].shape):
            raise ModelError(
                f"{lazy.where} has shape {list(lazy.shape)}, and the model's "
                f"{list(named[name].shape)}; they do not belong together"
            )
        named[name].copy_(lazy.to(named[name].dtype).read())
