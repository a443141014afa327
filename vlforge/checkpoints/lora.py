"""LoRA adapters as tensors: which weights they change, and what comes of it.

A merged weight is W + s * (B @ A), computed in fp32 and rounded once to W's own
precision; s is alpha / r, or alpha / sqrt(r) where the adapter says rslora. DoRA
then scales each row to its learned length.

R rank, I inputs, O outputs, V vocabulary.
Source: peft 0.13 to 0.21, `tuners/lora/layer.py`; DoRA, Liu et al. 2024.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlforge.checkpoints.weights import Lazy, Weights, open_file
from vlforge.types import ModelError

CONFIG_NAME = "adapter_config.json"
FILE_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
"""What peft puts before the names of the model's own parameters."""
_SIDES = {"A": "a", "B": "b", "embedding_A": "a", "embedding_B": "b", "magnitude_vector": "length"}


@dataclass(frozen=True)
class LoraSettings:
    """What `adapter_config.json` says of the arithmetic; `fields` is all of it.

    The patterns are regular expressions over the end of a module's name, as peft's.
    """

    alpha: float
    rslora: bool = False
    fan_in_fan_out: bool = False
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], path: Path) -> LoraSettings:
        """Read the fields of an adapter's configuration; `path` is for errors.

        Raises:
            ModelError: another kind of adapter, or no `lora_alpha`.
        """
        kind = fields.get("peft_type", "LORA")
        if kind != "LORA":
            raise ModelError(f"{path}: an adapter of type {kind} is not read here; only LORA")
        if "lora_alpha" not in fields:
            raise ModelError(f"{path} names no lora_alpha; copy the adapter's files again")
        return cls(
            alpha=float(fields["lora_alpha"]),
            rslora=bool(fields.get("use_rslora", False)),
            fan_in_fan_out=bool(fields.get("fan_in_fan_out", False)),
            alpha_pattern=dict(fields.get("alpha_pattern") or {}),
            fields=dict(fields),
        )

    def scale(self, module: str, rank: int) -> float:
        """What B @ A is multiplied by in a module."""
        alpha = self.alpha
        for pattern, own in self.alpha_pattern.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                alpha = float(own)
                break
        return alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True)
class LoraPair:
    """What changes one weight: `a` [R, I], `b` [O, R], `length` [O] where it is DoRA.

    `transposed`: the weight is stored [I, O], as embeddings and `fan_in_fan_out` do;
    `is_embedding`: and it is an embedding, which peft names otherwise.
    """

    a: Lazy
    b: Lazy
    scale: float
    length: Lazy | None = None
    transposed: bool = False
    is_embedding: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight that it changes."""
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.transposed else shape

    def delta(self) -> Tensor:
        """What is added to the weight, fp32."""
        change = (self.b.read().float() @ self.a.read().float()) * self.scale
        return change.T if self.transposed else change

    def onto(self, base: Lazy) -> Lazy:
        """The changed weight, of the base's precision.

        Raises:
            ModelError: a base of another shape.
        """
        if base.shape != self.shape:
            raise ModelError(
                f"{self.a.where} changes a weight of shape {list(self.shape)}, and {base.where} "
                f"has {list(base.shape)}; the adapter belongs to another base"
            )
        base = replace(base, exact=None)

        def exact() -> Tensor:
            return self._changed(base.read())

        return replace(base, read=lambda: exact().to(base.dtype), exact=exact)

    def _changed(self, weight: Tensor) -> Tensor:
        changed = weight.float() + self.delta()
        if self.length is not None:
            rows = changed.T if self.transposed else changed
            rows = rows * (self.length.read().float() / torch.linalg.norm(rows, dim=1))[:, None]
            changed = rows.T if self.transposed else rows
        return changed


@dataclass(frozen=True)
class Adapter:
    """An adapter: pairs by the name of the weight they change, and weights that replace one.

    Names are the model's as the adapter's file spells them, without peft's own parts
    (`model.layers.0.self_attn.q_proj.weight`).
    """

    settings: LoraSettings
    pairs: Mapping[str, LoraPair]
    whole: Mapping[str, Lazy]

    def renamed(self, name_of: Callable[[str], str]) -> Adapter:
        """The same under other names.

        Raises:
            ModelError: two of its names become one.
        """
        pairs = {name_of(name): pair for name, pair in self.pairs.items()}
        whole = {name_of(name): lazy for name, lazy in self.whole.items()}
        if len(pairs) + len(whole) < len(self.pairs) + len(self.whole):
            first = next(iter([*self.pairs.values()])).a.where
            raise ModelError(f"{first}: two tensors of the adapter mean the same weight")
        return Adapter(self.settings, pairs, whole)

    def onto(self, base: Weights) -> dict[str, Lazy]:
        """The base's weights with this adapter in them; every tensor of it has to land.

        Raises:
            ModelError: tensors whose weight the base lacks, or has in another shape.
        """
        lost = [pair.a.where for name, pair in self.pairs.items() if name not in base]
        lost += [lazy.where for name, lazy in self.whole.items() if name not in base]
        if lost:
            raise ModelError(
                f"{len(lost)} weights of the adapter have no place in the base, the first is "
                f"{lost[0]}; it was trained on another model"
            )
        merged = dict(base)
        for name, lazy in self.whole.items():
            merged[name] = lazy.to(base[name].dtype)
        for name, pair in self.pairs.items():
            merged[name] = pair.onto(merged[name])
        return merged


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter."""
    return (folder / CONFIG_NAME).is_file()


def read_settings(folder: Path) -> LoraSettings:
    """The adapter's configuration.

    Raises:
        ModelError: there is none, it cannot be read, or it is no LoRA.
    """
    file = folder / CONFIG_NAME
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{file} does not hold a configuration")
    return LoraSettings.from_json(fields, file)


def open_adapter(folder: Path) -> Adapter:
    """The adapter in a folder that peft wrote; no tensor is read yet.

    Raises:
        ModelError: a part is missing or cannot be read, or tensors that are no LoRA.
    """
    settings = read_settings(folder)
    for file in (folder / name for name in FILE_NAMES):
        if file.is_file():
            return gather(open_file(file), settings)
    raise ModelError(f"{folder} holds no {' or '.join(FILE_NAMES)}; copy the adapter's files again")


def gather(weights: Weights, settings: LoraSettings) -> Adapter:
    """Tensors under peft's names as an adapter.

    Names may carry `base_model.model.` or not, and the adapter's own name
    (`lora_A.default.weight`, as a whole model's state dict has it) or not.

    Raises:
        ModelError: half a pair, several adapters in one file, or tensors unknown here.
    """
    found: dict[str, dict[str, tuple[Lazy, str]]] = {}
    whole: dict[str, Lazy] = {}
    for key, lazy in weights.items():
        if ".original_module." in key:
            continue  # the base's own, which peft keeps beside a module that was trained whole
        module, mark, rest = plain_name(key).partition(".lora_")
        if not mark:
            is_trained = ".modules_to_save." in key
            whole[module] = lazy if is_trained or module not in whole else whole[module]
            continue
        side, *own = rest.removesuffix(".weight").split(".")
        part = _SIDES.get(side)
        if part is None or len(own) > 1 or part in found.get(module, {}):
            raise ModelError(f"{lazy.where} is no tensor of one LoRA adapter; give one by itself")
        found.setdefault(module, {})[part] = (lazy, side)
    pairs = {f"{module}.weight": _pair(module, made, settings) for module, made in found.items()}
    return Adapter(settings, pairs, whole)


def plain_name(key: str) -> str:
    """A name without the parts that peft adds to it."""
    key = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    return re.sub(r"\.modules_to_save(\.\w+)?(?=\.(weight|bias)$)", "", key)


def _pair(module: str, found: Mapping[str, tuple[Lazy, str]], settings: LoraSettings) -> LoraPair:
    if "a" not in found or "b" not in found:
        raise ModelError(f"{next(iter(found.values()))[0].where} stands alone; A and B are a pair")
    (a, side), (b, _) = found["a"], found["b"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise ModelError(
            f"{a.where} has shape {list(a.shape)} and its B {list(b.shape)}; only pairs of "
            "matrices of one rank are read"
        )
    return LoraPair(
        a,
        b,
        settings.scale(module, a.shape[0]),
        found["length"][0] if "length" in found else None,
        transposed=side.startswith("embedding") or settings.fan_in_fan_out,
        is_embedding=side.startswith("embedding"),
    )
