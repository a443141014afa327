"""LoRA, DoRA and QLoRA: put into a part, trained beside the connector, written as peft does.

peft changes layers in place, so a model with adapters runs through the same code as one
without. Paths in an adapter's file are those of transformers' own model of the part
(`model.layers.0.self_attn.q_proj`), which plain peft finds.

Source: peft 0.18 to 0.21, `tuners/lora`; LLaVA's non_lora_trainables.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from vlforge.checkpoints.lora import Adapter, LoraPair, open_adapter
from vlforge.checkpoints.peft_adapter import NAMES
from vlforge.inference.placing import quantised_share
from vlforge.models.native_parts import Branch
from vlforge.training.adapter_targets import find_targets, modules_named, short_targets
from vlforge.training.config import LoraSpec, TrainConfig
from vlforge.types import ModelError, RecipeError

NAME = "default"
"""What peft calls an adapter that has no name."""
WORDS = {"language": "lora", "vision": "vision_lora"}
"""The setting that adapts a part."""
_LORA = ".lora_"


@dataclass(frozen=True)
class Attached:
    """An adapter in a part.

    root: path of the transformers model in it that names begin from.
    layers: paths of the adapted layers within the root. whole: names, within the root, of
    the parameters that are trained beside them and kept with the adapter.
    """

    part: str
    root: str
    module: PreTrainedModel
    spec: LoraSpec
    config: Any
    layers: tuple[str, ...]
    whole: tuple[str, ...]

    def named(self) -> dict[str, nn.Parameter]:
        """Everything of the adapter that learns, by its name within the root."""
        found = dict(self.module.named_parameters())
        return {n: p for n, p in found.items() if _LORA in f".{n}" or n in self.whole}

    def state(self) -> dict[str, Tensor]:
        """The adapter's tensors under the names that peft writes."""
        return {_peft_name(name): tensor for name, tensor in self.named().items()}


def attach(model: Any, config: TrainConfig, seed: int) -> tuple[Attached, ...]:
    """Put in the adapters that a stage asks for, their first factor drawn from `seed`.

    Raises:
        RecipeError: targets that mean nothing, or layers outside of their part.
        ModelError: an adapter to begin with that does not belong here.
    """
    if config.quantise != "none" and config.lora is None:
        raise RecipeError(f"quantise {config.quantise}: weights of few bits learn by lora alone")
    specs = {"language": config.lora, "vision": config.vision_lora}
    asked = {part: spec for part, spec in specs.items() if spec is not None}
    if not asked:
        return ()
    if config.quantise != "none" and quantised_share(model) == 0:
        raise ModelError(
            f"quantise {config.quantise}: no layer of the language model could be quantised; leave "
            "it out, or check bitsandbytes"
        )
    # Targets of all parts before any layer is replaced: they look at the same model.
    found = {part: find_targets(model, part, spec, WORDS[part]) for part, spec in asked.items()}
    made: list[Attached] = []
    for part, spec in asked.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 2 + len(made))
            made.append(_attach(model, part, spec, found[part]))
    return tuple(made)


def _attach(model: Any, part: str, spec: LoraSpec, paths: Sequence[str]) -> Attached:
    # peft loads bitsandbytes where it is installed, which tells of kernels for 4 bits on a CPU.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from peft import LoraConfig, inject_adapter_in_model

    root, module = _root(model, part)
    inner = [path.removeprefix(f"{root}.") for path in paths]
    whole = _whole(model, part, root, spec, inner)
    shared: dict[str, Any] = {
        "r": spec.rank,
        "lora_alpha": spec.alpha if spec.alpha % 1 else int(spec.alpha),
        "lora_dropout": spec.dropout,
        "use_dora": spec.dora,
        "use_rslora": spec.rslora,
        "bias": spec.bias,
        "task_type": "CAUSAL_LM" if part == "language" else None,
    }
    # Of a native model the file's names are looked for in the whole of it, by plain peft.
    around = module.around() if isinstance(module, Branch) else module
    layers = [name for name, _ in around.named_modules()]
    kept = sorted(spec.modules_to_save) or None
    told = LoraConfig(**shared, target_modules=short_targets(inner, layers), modules_to_save=kept)
    _tell_bits(module)
    try:
        inject_adapter_in_model(LoraConfig(**shared, target_modules=list(inner)), module)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"{WORDS[part]}: {str(error).strip().splitlines()[0]}") from None
    attached = Attached(part, root, module, spec, told, tuple(inner), tuple(whole))
    if spec.weights is not None:
        load_adapter(attached, Path(spec.weights))
    return attached


def _root(model: Any, part: str) -> tuple[str, Any]:
    """The transformers model of a part and its path: the tower itself, where there is one."""
    tower = getattr(getattr(model, part), "tower", None)
    if isinstance(tower, PreTrainedModel):
        return f"{part}.tower", tower
    return part, getattr(model, part)


def _whole(model: Any, part: str, root: str, spec: LoraSpec, layers: Sequence[str]) -> list[str]:
    """Names that the root's parameters will have which are trained whole."""
    saved = modules_named(model, part, spec.modules_to_save, WORDS[part])
    adapted, found = set(layers), []
    for full, parameter in model.named_parameters():
        if not full.startswith(f"{root}.") or not parameter.is_floating_point():
            continue
        name = full.removeprefix(f"{root}.")
        layer, _, leaf = name.rpartition(".")
        is_saved = any(full.startswith(f"{module}.") for module in saved)
        is_bias = leaf == "bias" and (
            spec.bias == "all" or (spec.bias == "lora_only" and layer in adapted)
        )
        if is_saved or is_bias:
            found.append(f"{layer}.base_layer.{leaf}" if layer in adapted else name)
    return found


def _tell_bits(module: nn.Module) -> None:
    """peft asks the model itself, not its layers, whether it is quantised."""
    kinds = {type(layer).__name__ for layer in module.modules()}
    module.is_loaded_in_8bit = "Linear8bitLt" in kinds  # type: ignore[assignment]
    module.is_loaded_in_4bit = "Linear4bit" in kinds  # type: ignore[assignment]


def learning(
    adapters: Sequence[Attached], train: Iterable[str], stay: Iterable[str]
) -> tuple[list[str], list[str]]:
    """What trains and what stays, as `freeze` takes it, with the adapters in place.

    Of an adapted part nothing but the adapter learns, whatever `train` says of it.
    """
    train, stay = list(train), list(stay)
    for one in adapters:
        root = re.escape(f"{one.root}.")
        own = "|".join(re.escape(f"{one.root}.{name}") for name in one.whole)
        train.append(rf"^{root}.*\.lora_")
        kept = rf"(?!(?:{own})$)" if own else ""
        stay.append(rf"^{kept}(?!.*\.lora_){one.part}\.")
        if own:
            train.append(rf"^(?:{own})$")
    return train, stay


def check_learning(adapters: Sequence[Attached], names: Iterable[str], unused: set[str]) -> None:
    """Hold that every adapter learns.

    Raises:
        RecipeError: `freeze` names one of them.
    """
    learns = set(names) | unused
    for one in adapters:
        lost = [name for name in one.named() if f"{one.root}.{name}" not in learns]
        if lost:
            raise RecipeError(
                f"freeze holds {len(lost)} weights of {WORDS[one.part]}, the first is "
                f"{one.root}.{lost[0]}; leave the part out of freeze"
            )


@torch.no_grad()
def lighten(adapters: Sequence[Attached], dtype: torch.dtype, device: torch.device) -> int:
    """Hold the frozen matrices under adapters in the products' precision; how many those are.

    Norms, embeddings and the output layer stay, and all of it where products are not cast,
    on a CPU. The base is not written, so that what is rounded away here is not kept.
    """
    count = 0
    if device.type != "cuda" or dtype == torch.float32:
        return count
    for one in adapters:
        head = one.module.get_output_embeddings() if one.part == "language" else None
        kept = {id(p) for p in head.parameters()} if head is not None else set()
        for layer in one.module.modules():
            if not isinstance(layer, nn.Linear) or layer.weight.requires_grad:
                continue
            if layer.weight.dtype == torch.float32 and id(layer.weight) not in kept:
                layer.weight.data = layer.weight.data.to(dtype)
                count += 1
    return count


def digest(adapters: Sequence[Attached]) -> str:
    """Changes when a setting of an adapter does; empty where there is none."""
    if not adapters:
        return ""
    settings = [{"part": one.part, "layers": one.layers} | asdict(one.spec) for one in adapters]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def facts(adapters: Sequence[Attached]) -> dict[str, dict[str, int]]:
    """Per part how many layers are adapted, and the weights that learn there."""
    return {
        one.part: {
            "layers": len(one.layers),
            "weights": sum(parameter.numel() for parameter in one.named().values()),
        }
        for one in adapters
    }


@torch.no_grad()
def load_adapter(attached: Attached, folder: Path) -> None:
    """Begin with an adapter in peft's format; all of it has to land, and nothing may be missing.

    Raises:
        ModelError: other layers, another rank, or another scale.
    """
    adapter = _as_ours(attached, open_adapter(folder))
    places, modules = attached.named(), dict(attached.module.named_modules())
    left = set(attached.layers)
    for name, pair in adapter.pairs.items():
        layer = name.removesuffix(".weight")
        scale = modules[layer].scaling[NAME]
        if abs(pair.scale - scale) > 1e-9:
            raise ModelError(
                f"{folder}: its alpha and rank scale by {pair.scale:g}, {WORDS[attached.part]} by "
                f"{scale:g}; set rank, alpha and rslora as they were"
            )
        for key, lazy in _sides(layer, pair).items():
            _copy(places, key, lazy, folder)
        left.discard(layer)
    for name, lazy in adapter.whole.items():
        based = ".base_layer.".join(name.rsplit(".", 1))
        _copy(places, based if based in places else name, lazy, folder)
    if left:
        raise ModelError(
            f"{folder} adapts {len(adapter.pairs)} layers and {WORDS[attached.part]} "
            f"{len(left)} more, the first is {min(left)}; set targets as they were"
        )


def _as_ours(attached: Attached, adapter: Adapter) -> Adapter:
    """The adapter under names within the root, whatever class it was trained with."""
    weights = {f"{layer}.weight" for layer in attached.layers}
    weights |= {name.replace(".base_layer.", ".") for name in attached.whole}

    def name_of(name: str) -> str:
        for namer in NAMES:
            told = namer(name)
            ours = told.removeprefix(f"{attached.root}.") if told else None
            if ours in weights:
                return str(ours)
        raise ModelError(
            f"{attached.spec.weights or 'adapter'}: {name} is no weight that "
            f"{WORDS[attached.part]} adapts; set targets as they were"
        )

    return adapter.renamed(name_of)


def _sides(layer: str, pair: LoraPair) -> dict[str, Any]:
    if pair.is_embedding:
        keys = (f"{layer}.lora_embedding_A.{NAME}", f"{layer}.lora_embedding_B.{NAME}")
    else:
        keys = (f"{layer}.lora_A.{NAME}.weight", f"{layer}.lora_B.{NAME}.weight")
    found: dict[str, Any] = dict(zip(keys, (pair.a, pair.b), strict=True))
    if pair.length is not None:
        found[f"{layer}.lora_magnitude_vector.{NAME}.weight"] = pair.length
    return found


def _copy(places: dict[str, nn.Parameter], key: str, lazy: Any, folder: Path) -> None:
    place = places.get(key)
    if place is None or tuple(place.shape) != lazy.shape:
        shape = "none" if place is None else list(place.shape)
        raise ModelError(
            f"{folder}: {lazy.where} has shape {list(lazy.shape)} and its place {shape}; set rank "
            "and dora as they were"
        )
    place.copy_(lazy.read())


def _peft_name(name: str) -> str:
    """`base_model.model.….lora_A.weight` of `….lora_A.default.weight`."""
    if "lora_magnitude_vector" in name:
        name = name.removesuffix(".weight")
    return "base_model.model." + re.sub(rf"(\.lora_\w+)\.{NAME}", r"\1", name)
