"""Where a model's weights go and in which form: devices, 8 and 4 bits.

Everything here becomes arguments of transformers' `from_pretrained`, which reads a
tensor, changes it and puts it in its place, one after the other.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vlforge.models.base import PARTS
from vlforge.types import Loading, ModelError

PartOf = Callable[[str], str]
"""Which of the three nouns a parameter belongs to."""
BITS = {"8bit": 8, "4bit": 4}


def part_in_family(name: str) -> str:
    """The noun of one of our parameters; those outside of all parts are the connector's."""
    first = name.partition(".")[0]
    return first if first in PARTS else "connector"


def placing(
    loading: Loading, device: torch.device, dtype: torch.dtype, bare: nn.Module, part_of: PartOf
) -> dict[str, Any]:
    """Arguments of `from_pretrained`; {} where the model simply goes to `device`.

    Args:
        dtype: what is not quantised, and what is computed in.
        bare: the model without memory (meta device).

    Raises:
        ModelError: bitsandbytes is missing, or a device map that cannot be.
    """
    how: dict[str, Any] = {}
    if loading.device_map != "none":
        how["device_map"] = _device_map(loading.device_map, bare, part_of)
        how["offload_folder"] = tempfile.mkdtemp(prefix="vlforge-offload-")
        # It says what the map says, and that of parameters outside of modules nobody asks.
        logging.getLogger("accelerate").setLevel(logging.ERROR)
        atexit.register(shutil.rmtree, how["offload_folder"], ignore_errors=True)
    if loading.quantise != "none":
        how.setdefault("device_map", {"": str(device)})
        settings = quantising(loading.quantise, dtype, bare, part_of)
        places = how["device_map"].values() if isinstance(how["device_map"], dict) else ()
        # What a GPU has no room for stays whole. With all on the CPU this would be everything.
        settings.llm_int8_enable_fp32_cpu_offload = len(set(places)) > 1
        how["quantization_config"] = settings
    return how


def quantising(kind: str, dtype: torch.dtype, bare: nn.Module, part_of: PartOf) -> Any:
    """bitsandbytes' settings: 4 bits are NF4 with doubly quantised scales.

    Encoders, connector and the output layer stay as they are.

    Raises:
        ModelError: bitsandbytes is missing, or a kind that is not known.

    Source: LLaVA's load_pretrained_model, haotian-liu/LLaVA@c121f04.
    """
    if kind not in BITS:
        raise ModelError(f"quantise {kind!r} is unknown; known: none, {', '.join(BITS)}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"quantise {kind} needs bitsandbytes: pip install 'vlforge[quantise]'")
    from transformers import BitsAndBytesConfig

    # It tells of every product that it rounds, and of kernels that are not for this machine.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    kept = [name for name, part in by_part(bare, part_of).items() if part != "language"]
    head = bare.get_output_embeddings()
    kept += [name for name, module in bare.named_modules() if module is head]
    return BitsAndBytesConfig(
        load_in_8bit=kind == "8bit",
        load_in_4bit=kind == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def by_part(model: nn.Module, part_of: PartOf) -> dict[str, str]:
    """The largest modules (and parameters) that are all of one noun, and which noun."""
    found: dict[str, str] = {}

    def visit(prefix: str, module: nn.Module) -> None:
        parts = {part_of(f"{prefix}.{name}".lstrip(".")) for name, _ in module.named_parameters()}
        if len(parts) < 2 and prefix:
            found[prefix] = parts.pop() if parts else part_of(f"{prefix}.")
            return
        for name, _ in module.named_parameters(recurse=False):
            found[f"{prefix}.{name}".lstrip(".")] = part_of(f"{prefix}.{name}".lstrip("."))
        for name, child in module.named_children():
            visit(f"{prefix}.{name}".lstrip("."), child)

    visit("", model)
    return found


def quantised_share(model: nn.Module) -> float:
    """How many of the language model's weights are in 8 or 4 bits, 0 to 1.

    Products and experts count, words and the output layer do not. Experts lie in one
    tensor for all of a layer, which bitsandbytes leaves as it is.
    """
    model = getattr(model, "language", model)
    modules = [one for one in model.modules() if "bitsandbytes" in type(one).__module__]
    small = sum(
        one.in_features * one.out_features for one in modules if hasattr(one, "in_features")
    )
    experts = sum(one.numel() for one in model.parameters() if one.ndim == 3)
    return small / max(small + experts, 1)


def input_device(model: nn.Module, device: torch.device) -> torch.device:
    """Where pixels and ids are to go: to the first GPU that a spread model uses."""
    spread: Mapping[str, Any] | None = getattr(model, "hf_device_map", None)
    for place in (spread or {}).values():
        if place not in ("cpu", "disk"):
            return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    return torch.device("cpu") if spread else device


def _device_map(asked: str | Mapping[str, str], bare: nn.Module, part_of: PartOf) -> Any:
    """What transformers takes: "auto", or module -> device with our nouns written out."""
    if isinstance(asked, str):
        if asked != "auto":
            raise ModelError(f"device_map {asked!r} is unknown; give auto or a mapping")
        return "auto"
    if not asked:
        raise ModelError("device_map is empty; give auto, or parts with devices")
    places = {name: _place(name, place) for name, place in asked.items()}
    rest = next(iter(places.values()))
    modules = dict(bare.named_modules()) | dict(bare.named_parameters())
    for name in places:
        if name not in PARTS and name not in modules:
            raise ModelError(
                f"device_map: no part is called {name!r}; known: {', '.join(PARTS)}, and modules "
                "of the model"
            )
    nouns = {part: places.get(part, rest) for part in PARTS}
    made = {name: nouns[part] for name, part in by_part(bare, part_of).items()}
    for name, place in sorted(places.items(), key=lambda pair: pair[0].count(".")):
        if name in PARTS and name not in modules:
            continue
        inner = [one for one in made if one.startswith(f"{name}.")]
        for one in inner:
            del made[one]
        made = _opened(made, name, bare) | {name: place}
    alone = dict(bare.named_parameters())
    # A parameter outside of every module is used as it is: it cannot come from the disk.
    return {n: "cpu" if place == "disk" and n in alone else place for n, place in made.items()}


def _opened(made: Mapping[str, Any], name: str, bare: nn.Module) -> dict[str, Any]:
    """The map with entries around `name` replaced by those of their children."""
    made = dict(made)
    around = next((one for one in made if name.startswith(f"{one}.")), None)
    while around is not None:
        place, module = made.pop(around), bare.get_submodule(around)
        inner = [one for one, _ in module.named_parameters(recurse=False)]
        inner += [one for one, _ in module.named_children()]
        made |= {f"{around}.{one}": place for one in inner}
        around = next((one for one in made if name.startswith(f"{one}.")), None)
    return made


def _place(name: str, place: Any) -> Any:
    """A device as transformers takes it.

    Raises:
        ModelError: no such device.
    """
    if place == "disk":
        return place
    try:
        device = torch.device(int(place) if str(place).isdigit() else place)
    except (RuntimeError, ValueError):
        raise ModelError(
            f"device_map: {name} on {place!r}: no device; give cpu, disk, cuda:N"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device_map: {name} on {place}: torch finds {torch.cuda.device_count()} GPUs here"
        )
    return device.index or 0 if device.type == "cuda" else str(device)
