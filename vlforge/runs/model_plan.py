"""What a model costs in each stage of its training, before a weight is read.

Weights are counted on a model without memory, so that they hold to the last one;
FLOPs and memory come from `models.cost`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vlforge.models.cost import ModelCost, model_cost
from vlforge.models.native_cost import full_config, is_counted, native_cost
from vlforge.models.sizes import SIZES
from vlforge.types import ModelError

if TYPE_CHECKING:
    from vlforge.models.base import VisionLanguageModel
    from vlforge.models.native_parts import NativeParts

FROZEN_BYTES, LEARNING_BYTES = 2, 16
"""Of a weight: bf16 where it is frozen; fp32 with gradient and AdamW's moments where it learns."""


@dataclass(frozen=True)
class SampleShape:
    """A sample that costs are told for."""

    text_tokens: int
    supervised: int
    images: int = 1


STAGE_SAMPLES = {"align": SampleShape(64, 30), "instruct": SampleShape(320, 180)}
"""Typical samples: a caption, and a conversation of LLaVA's mix."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: what learns, and what a sample takes.

    flops: of one sample, forward and backward. kept_bytes: of one sample until its
    backward pass, without and with checkpointing of the language model's layers.
    state_bytes: weights, gradients and optimiser.
    """

    name: str
    learns: tuple[str, ...]
    trained: int
    sample: SampleShape
    tokens: int
    flops: float
    kept_bytes: float
    kept_bytes_checkpointed: float
    state_bytes: float


@dataclass(frozen=True)
class ModelPlan:
    """A model and its stages."""

    name: str
    family: str
    cost: ModelCost
    stages: tuple[StagePlan, ...]


@dataclass(frozen=True)
class Lora:
    """Adapters on linear layers whose full names match one of `targets`."""

    rank: int
    targets: tuple[str, ...] = ()


def is_model(given: Path | str) -> bool:
    """Whether a command's argument means a model: its folder, or about a published name."""
    if Path(given).exists():
        return Path(given).is_dir()
    return bool(get_close_matches(str(given), SIZES, n=1, cutoff=0.7))


def plan_model(
    given: Path | str, sample: SampleShape | None = None, lora: Lora | None = None
) -> ModelPlan:
    """Cost of a published model by name, or of what lies in a folder, in any layout.

    Args:
        sample: instead of the stages' typical ones.
        lora: a stage "lora" is added, in which only adapters learn.

    Raises:
        ModelError: no such model, or one with a part that is not counted.
    """
    fields = _fields(given)
    is_native = is_counted(fields)
    cost = native_cost(fields) if is_native else model_cost(fields)
    model = _bare_native(fields) if is_native else _meta(fields)
    stages = [
        _stage(model, cost, name, learns, sample or STAGE_SAMPLES.get(name, SampleShape(320, 180)))
        for name, learns in model.stages.items()
    ]
    if lora is not None:
        stages.append(_lora_stage(model, cost, lora, sample or STAGE_SAMPLES["instruct"]))
    return ModelPlan(str(given), model.family, cost, tuple(stages))


def _fields(given: Path | str) -> Mapping[str, Any]:
    if str(given) in SIZES:
        return SIZES[str(given)]
    folder = Path(given)
    if not folder.exists():
        near = get_close_matches(str(given), SIZES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"published ones: {', '.join(SIZES)}"
        raise ModelError(f"no model at {given}; {hint}")
    from vlforge.checkpoints.index import match, read_checkpoint

    file = folder / "config.json"
    if file.is_file():
        fields = json.loads(file.read_text(encoding="utf-8"))
        if str(fields.get("model_type")).startswith("vlforge_"):
            return fields
        if is_counted(fields) and match(folder) is None:
            return full_config(fields)
    return read_checkpoint(folder).config.to_dict()


def _meta(fields: Mapping[str, Any]) -> VisionLanguageModel:
    from vlforge.checkpoints.checkpoint import meta_model
    from vlforge.models.families import family_of, find_family

    family = family_of(fields.get("model_type"))
    if family is None:
        raise ModelError(f"a model of type {fields.get('model_type')!r} is of no family here")
    return meta_model(find_family(family).config_class.from_dict(dict(fields)))


def _bare_native(fields: Mapping[str, Any]) -> NativeParts:
    """A native model without memory, under our nouns."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vlforge.models.native import NativeModel
    from vlforge.models.native_parts import NativeParts

    named = {key: value for key, value in fields.items() if key != "model_type"}
    with torch.device("meta"):
        config = AutoConfig.for_model(str(fields["model_type"]), **named)
        bare = AutoModelForImageTextToText.from_config(config)
    # Nothing is encoded here: no processor is needed.
    return NativeParts(NativeModel(bare, SimpleNamespace(tokenizer=None)))


def _stage(
    model: VisionLanguageModel | NativeParts,
    cost: ModelCost,
    name: str,
    learns: Sequence[str],
    sample: SampleShape,
) -> StagePlan:
    from vlforge.models.base import PARTS
    from vlforge.training.selection import matcher

    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    chosen = set().union(*(matcher(one, list(sizes), PARTS) for one in learns))
    chosen -= model.unused_parameters
    return _plan(cost, name, tuple(learns), chosen, sum(sizes[n] for n in chosen), sample)


def _lora_stage(
    model: VisionLanguageModel | NativeParts,
    cost: ModelCost,
    lora: Lora,
    sample: SampleShape,
) -> StagePlan:
    from torch import nn

    wanted = lora.targets or (r"language\.(?!lm_head).*",)
    found = {
        name: lora.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(re.fullmatch(one, name) for one in wanted)
    }
    if not found:
        raise ModelError(f"no linear layer is called like {', '.join(wanted)}")
    trained = sum(found.values())
    learns = (f"rank {lora.rank} on {len(found)} layers",)
    return _plan(cost, "lora", learns, set(found), trained, sample, is_added=True)


def _plan(
    cost: ModelCost,
    name: str,
    learns: tuple[str, ...],
    chosen: set[str],
    trained: int,
    sample: SampleShape,
    is_added: bool = False,
) -> StagePlan:
    parts = {weight.split(".", 1)[0] for weight in chosen}
    shape = (sample.text_tokens, sample.supervised, sample.images)
    frozen = cost.parameters if is_added else cost.parameters - trained
    # Adapters learn beside frozen products: those only pass gradients through.
    flops = cost.sample_flops(*shape, {"connector"} if is_added else parts)
    return StagePlan(
        name=name,
        learns=learns,
        trained=trained,
        sample=sample,
        tokens=sample.text_tokens + sample.images * cost.image_tokens,
        flops=flops + (6.0 * trained * sample.text_tokens if is_added else 0.0),
        kept_bytes=cost.sample_bytes(*shape, parts),
        kept_bytes_checkpointed=cost.sample_bytes(*shape, parts, checkpointing=("language",)),
        state_bytes=frozen * FROZEN_BYTES + trained * LEARNING_BYTES,
    )
